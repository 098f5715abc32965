"""The exports of one vocabulary: maps for every engine, configuration, trimmed draft."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from bench import __version__
from bench.config import PairConfig, SelectConfig
from bench.cost.flops import DraftKind
from bench.errors import CheckpointError
from bench.export.checkpoint import Layout, read_head, trim_eagle3, trim_lm_head
from bench.export.config_edit import with_draft_vocab_size
from bench.export.provenance import Provenance
from bench.export.vocab_maps import write_maps
from bench.models.target import resolve_model
from bench.selection.choose import Selection
from bench.selection.prepare import Context
from bench.vocab.draft_vocab import DraftVocab, IntArray

EXPORTS = "exports"


@dataclass(frozen=True)
class Export:
    """A vocabulary, and the draft that it trims.

    Attributes:
        chosen: the vocabulary.
        counts: of every target token in the domain's ranking responses `(V,)`.
        must_keep: ids that were forced in.
        provenance: kept beside every file.
        pair: target and draft.
        draft_folder: the draft's files.
        kind: of draft.
        settings: `checkpoint` and `eagle3_config` say what is written.
    """

    chosen: DraftVocab
    counts: IntArray
    must_keep: list[int]
    provenance: Provenance
    pair: PairConfig
    draft_folder: Path
    kind: DraftKind
    settings: SelectConfig


def export_of(context: Context, name: str, selection: Selection, figures: dict) -> Export:
    """What the selection for domain `name`, whose summary is `figures`, exports."""
    return Export(
        chosen=selection.chosen,
        counts=context.counts[name].sides.ranking.total(),
        must_keep=context.vocabulary.must_keep,
        provenance=_provenance(context, selection, figures),
        pair=context.config.pair,
        draft_folder=context.draft_folder,
        kind=context.shape.kind,
        settings=context.config.select,
    )


def write_exports(folder: Path, export: Export) -> None:
    """Writes every file of an export into `folder`/exports.

    Raises:
        CheckpointError: the draft, or the configuration that the user gave, cannot be trimmed.
    """
    out = folder / EXPORTS
    out.mkdir()
    write_maps(export.chosen, export.counts, export.must_keep, export.provenance, out)
    _write_config(out, export)
    if export.settings.checkpoint:
        _write_checkpoints(out, export)


def command_line() -> str:
    """The command that runs now, as a user would type it."""
    return shlex.join(["python", "-m", "bench", *sys.argv[1:]])


def _provenance(context: Context, selection: Selection, figures: dict) -> Provenance:
    pair = context.config.pair
    return Provenance(
        version=__version__,
        command=command_line(),
        pair=pair.label,
        domain=figures["domain"],
        target=pair.target,
        target_revision=pair.target_revision,
        tokenizer_hash=context.target.fingerprint,
        source_id=figures["source_id"],
        ranking=figures["ranking"],
        responses=figures["responses"],
        vocab_size=len(selection.chosen),
        target_vocab_size=context.target.vocab_size,
        coverage_train=figures["coverage_train"],
        coverage_heldout=figures["coverage_heldout"],
        content_hash=selection.chosen.content_hash,
        num_ranking_tokens=figures["num_tokens"],
    )


def _write_config(out: Path, export: Export) -> None:
    """An EAGLE-3 configuration with the new size: the user's, else the draft's own."""
    given = export.settings.eagle3_config
    if given is None and export.kind is not DraftKind.EAGLE3:
        return
    path = Path(given) if given else export.draft_folder / "config.json"
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"select.eagle3_config={path} cannot be read: {error}") from error
    edited = with_draft_vocab_size(text, len(export.chosen), str(path))
    (out / "eagle3_config.json").write_bytes(edited.encode("utf-8"))


def _write_checkpoints(out: Path, export: Export) -> None:
    folder, chosen, pair = export.draft_folder, export.chosen, export.pair
    if export.kind is DraftKind.DECODER_LM:
        trim_lm_head(folder, chosen, out / "lm_head")
        return
    head = None if _has_head(folder) else read_head(resolve_model(pair.target, pair.target_revision))
    for layout, place in ((Layout.SAFEAILAB, "draft"), (Layout.SPECULATORS, "draft-speculators")):
        trim_eagle3(folder, chosen, head, layout, out / place, pair.target)


def _has_head(folder: Path) -> bool:
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            if "lm_head.weight" in file.keys():  # noqa: SIM118 - not a mapping
                return True
    # A pickled checkpoint is read once, by the trimming; those in the wild bring their head.
    return (folder / "pytorch_model.bin").exists()
