"""Finds a draft - shipped, in the catalogue, local or on the hub - and loads it, of any kind."""

from collections.abc import Collection
from dataclasses import replace
from enum import Enum
from pathlib import Path

from bench.cost.config_json import DraftKind, kind_of, read_config
from bench.cost.shape import DraftShape
from bench.errors import CheckpointError
from bench.models.decoder_lm import load_decoder_lm
from bench.models.draft import Draft, Placement
from bench.models.draft_config import read_draft_keys
from bench.models.eagle import load_eagle
from bench.models.eagle_files import CONFIG, kind_of_files, open_eagle
from bench.models.fetching import resolve_config, resolve_model
from bench.models.target_config import plan_target

SHIPPED = Path(__file__).resolve().parent.parent / "drafts"


class Purpose(Enum):
    """What a draft is used for: some drafts cannot run here, but can be trimmed."""

    RUN = "run"
    TRIM = "trim"


def resolve_draft(
    name: str,
    revision: str | None = None,
    *,
    purpose: Purpose = Purpose.RUN,
    weights: bool = True,
    ignored_keys: Collection[str] = (),
    trust_remote_code: bool = False,
) -> Path:
    """Folder of a shipped draft, one of the catalogue, a local one, or one from the hub.

    Its configuration is judged before any weights are fetched.

    Args:
        name: shipped or catalogue name, folder or hub id.
        revision: of the hub.
        purpose: what it is to be used for.
        weights: fetch them from the hub; else its `config.json` only.
        ignored_keys: keys of its configuration that the user has decided to ignore.
        trust_remote_code: fetch its code from the hub, too.

    Raises:
        AssetError: it can be had from none of them.
        CheckpointError: it is refused for its configuration.
    """
    folder = SHIPPED / name if (SHIPPED / name).is_dir() else resolve_config(name, revision)
    check_draft_config(folder, purpose, ignored_keys, trust_remote_code)
    if weights and folder != SHIPPED / name:
        return resolve_model(name, revision, trust_remote_code)
    return folder


def check_draft_config(
    folder: Path, purpose: Purpose, ignored_keys: Collection[str] = (), trust_remote_code: bool = False
) -> DraftKind:
    """The kind of draft that a configuration is of.

    Raises:
        CheckpointError: it is of no kind that is supported, or cannot be run as it is.
    """
    path = folder / CONFIG
    values = read_config(path)[1]
    kind = kind_of(values, str(path))
    if purpose is Purpose.TRIM or _may_be_decoder_lm(kind, values):
        return kind
    if kind is DraftKind.DECODER_LM:
        plan_target(values, str(path), trust_remote_code)
    else:
        read_draft_keys(values, str(path), kind, ignored_keys)
    return kind


def _may_be_decoder_lm(kind: DraftKind, values: dict) -> bool:
    """Whether only the weights show if this is a draft or a decoder LM of one layer."""
    names = [str(name).lower() for name in values.get("architectures") or []]
    return kind is DraftKind.EAGLE and not any("eagle" in name for name in names)


def resolve_lone_draft(
    name: str, revision: str | None = None, weights: bool = True, trust_remote_code: bool = False
) -> tuple[Path, DraftShape]:
    """As `resolve_draft`, with its shape, for a draft that runs without a target.

    Raises:
        AssetError: it cannot be had.
        CheckpointError: it reads features of a target, or has no shape that is known.
    """
    folder = resolve_draft(name, revision, weights=weights, trust_remote_code=trust_remote_code)
    shape = DraftShape.read(folder)
    kind = kind_of_files(folder) if weights else shape.kind
    if kind is not DraftKind.DECODER_LM and (weights or kind is DraftKind.EAGLE3):
        raise CheckpointError(
            f"{name} is {kind.label}, which runs on the features of its target: measure the pair with "
            "task=bench, or name a decoder LM as pair.draft (pair=gemma3-270m, say)"
        )
    return folder, shape


def confirmed_shape(folder: Path) -> DraftShape:
    """The shape of a draft as its weights confirm it: kind, layers and rows of the LM head.

    Raises:
        AssetError: there are no weights.
        CheckpointError: the files are not those of a draft.
    """
    kind = kind_of_files(folder)
    if kind is not DraftKind.DECODER_LM:
        return open_eagle(folder, kind, may_be_quantised=True).config.shape
    return replace(DraftShape.read(folder), kind=kind, feature_size=0)


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
