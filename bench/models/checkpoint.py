"""Finds a draft - shipped, in the catalogue, local or on the hub - and loads it, of any kind."""

from collections.abc import Collection
from enum import Enum
from pathlib import Path

from bench.config import PairConfig
from bench.cost.config_json import DraftKind, kind_of, read_config
from bench.cost.shape import DraftShape
from bench.errors import CheckpointError
from bench.models.decoder_lm import decoder_shape, load_decoder_lm
from bench.models.draft import Draft, Placement
from bench.models.draft_config import read_draft_keys
from bench.models.eagle import load_eagle
from bench.models.eagle_files import CONFIG, kind_of_files, open_eagle
from bench.models.fetching import resolve_config, resolve_model
from bench.models.mtp import OF_TARGET, load_mtp, open_mtp
from bench.models.mtp_config import check_model_type
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


def resolve_pair_draft(pair: PairConfig, *, purpose: Purpose = Purpose.RUN, weights: bool = True) -> Path:
    """As `resolve_draft`, for the draft of a pair, which may be the MTP module in its target's own files.

    Such a module is judged by the names and shapes of its tensors; no weights are read.

    Raises:
        AssetError: it cannot be had.
        CheckpointError: it is refused.
    """
    if pair.draft != OF_TARGET:
        name, revision = pair.draft, pair.draft_revision
        return resolve_draft(
            name,
            revision,
            purpose=purpose,
            weights=weights,
            ignored_keys=pair.ignore_keys,
            trust_remote_code=pair.trust_remote_code,
        )
    path = resolve_config(pair.target, pair.target_revision) / CONFIG
    check_model_type(read_config(path)[1], str(path))
    folder = resolve_model(pair.target, pair.target_revision, pair.trust_remote_code)
    return open_mtp(folder, may_be_quantised=purpose is Purpose.TRIM).folder


def shape_of_pair(pair: PairConfig, folder: Path) -> DraftShape:
    """The shape of a pair's draft in `folder`, by its configuration; of an MTP module, by its tensors.

    Raises:
        CheckpointError: it has none that is known.
    """
    if pair.draft == OF_TARGET:
        return open_mtp(folder, may_be_quantised=True).config.shape
    shape = DraftShape.read(folder)
    # That the head of a decoder LM is trimmed is in the weights alone.
    return decoder_shape(folder) if shape.kind is DraftKind.DECODER_LM else shape


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
    elif kind is DraftKind.MTP:
        check_model_type(values, str(path))
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
    if name == OF_TARGET:
        raise CheckpointError(
            f"pair.draft={OF_TARGET} is the MTP module of a target, which runs on its hidden "
            "states: measure the pair with task=bench"
        )
    folder = resolve_draft(name, revision, weights=weights, trust_remote_code=trust_remote_code)
    shape = DraftShape.read(folder)
    if shape.kind is DraftKind.DECODER_LM:
        shape = decoder_shape(folder)
    kind = kind_of_files(folder) if weights else shape.kind
    if kind is not DraftKind.DECODER_LM and (weights or kind is not DraftKind.EAGLE):
        raise CheckpointError(
            f"{name} is {kind.label}, which runs on the features of its target: measure the pair with "
            "task=bench, or name a decoder LM as pair.draft (pair=gemma3-270m, say)"
        )
    return folder, shape


def confirmed_shape(folder: Path, of_target: bool = False) -> DraftShape:
    """The shape of a draft as its weights confirm it: kind, layers and rows of the LM head.

    Args:
        folder: of the draft.
        of_target: as of `load_draft`.

    Raises:
        AssetError: there are no weights.
        CheckpointError: the files are not those of a draft.
    """
    kind = DraftKind.MTP if of_target else kind_of_files(folder)
    if kind is DraftKind.MTP:
        return open_mtp(folder, may_be_quantised=True).config.shape
    if kind is not DraftKind.DECODER_LM:
        return open_eagle(folder, kind, may_be_quantised=True).config.shape
    return decoder_shape(folder)


def load_draft(folder: Path, placement: Placement, of_target: bool = False) -> Draft:
    """Loads a draft of the kind that its configuration names.

    Args:
        folder: of the draft, with its `config.json`.
        placement: device, dtype, and the target that it drafts for.
        of_target: it is the MTP module in the target's own files.

    Raises:
        CheckpointError: the files are not what the configuration says, or not a draft of this target.
    """
    kind = DraftKind.MTP if of_target else kind_of_files(folder)
    if kind is DraftKind.MTP:
        return load_mtp(folder, placement)
    if kind is DraftKind.DECODER_LM:
        return load_decoder_lm(folder, placement)
    return load_eagle(folder, kind, placement)
