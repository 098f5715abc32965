"""Finds a draft - shipped, in the catalogue, local or on the hub - and loads it, whatever its kind."""

from pathlib import Path

from bench.assets import CATALOG
from bench.cost.config_json import DraftKind
from bench.cost.shape import DraftShape
from bench.errors import CheckpointError
from bench.models.decoder_lm import load_decoder_lm
from bench.models.draft import Draft, Placement
from bench.models.eagle import load_eagle
from bench.models.eagle_files import kind_of_files
from bench.models.target import from_hub, resolve_model

SHIPPED = Path(__file__).resolve().parent.parent / "drafts"


def resolve_draft(name: str, revision: str | None = None, weights: bool = True) -> Path:
    """Folder of a shipped draft, one of the catalogue, a local one, or one from the hub.

    Args:
        name: shipped or catalogue name, folder or hub id.
        revision: of the hub.
        weights: fetch them from the hub; else its `config.json` only.

    Raises:
        AssetError: it can be had from none of them.
    """
    shipped = SHIPPED / name
    if shipped.is_dir():
        return shipped
    if weights or name in CATALOG or Path(name).is_dir():
        return resolve_model(name, revision)
    return from_hub(name, revision, ("config.json",))


def resolve_lone_draft(
    name: str, revision: str | None = None, weights: bool = True
) -> tuple[Path, DraftShape]:
    """As `resolve_draft`, with its shape, for a draft that is to run without a target.

    Raises:
        AssetError: it cannot be had.
        CheckpointError: it reads features of a target, or has no shape that is known.
    """
    folder = resolve_draft(name, revision, weights)
    shape = DraftShape.read(folder)
    if shape.kind is not DraftKind.DECODER_LM:
        raise CheckpointError(
            f"{name} is {shape.kind.label}, which runs on the features of its target: measure the pair with "
            "task=bench, or name a decoder LM as pair.draft (pair=gemma3-270m, say)"
        )
    return folder, shape


def load_draft(folder: Path, placement: Placement) -> Draft:
    """Loads a draft of the kind that its configuration names.

    Args:
        folder: of the draft, with its `config.json`.
        placement: device, dtype, and the target that it drafts for.

    Raises:
        CheckpointError: the files are not what the configuration says, or not a draft of this target.
    """
    kind = kind_of_files(folder)
    if kind is DraftKind.DECODER_LM:
        return load_decoder_lm(folder, placement)
    return load_eagle(folder, kind, placement)
