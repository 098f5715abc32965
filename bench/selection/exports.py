"""The exports of one selection: vocabulary maps for every engine, configuration, trimmed draft."""

import shlex
import sys
from pathlib import Path

from safetensors import safe_open

from bench import __version__
from bench.cost.flops import DraftKind
from bench.errors import CheckpointError
from bench.export.checkpoint import Layout, read_head, trim_eagle3, trim_lm_head
from bench.export.config_edit import with_draft_vocab_size
from bench.export.provenance import Provenance
from bench.export.vocab_maps import write_maps
from bench.models.target import resolve_model
from bench.selection.choose import Selection
from bench.selection.prepare import Context

EXPORTS = "exports"


def write_exports(folder: Path, context: Context, name: str, selection: Selection, figures: dict) -> None:
    """Writes every export of domain `name`, whose summary is `figures`, into `folder`/exports."""
    out = folder / EXPORTS
    out.mkdir()
    counts = context.counts[name].sides.ranking.total()
    provenance = provenance_of(context, selection, figures)
    write_maps(selection.chosen, counts, context.vocabulary.must_keep, provenance, out)
    _write_config(out, context, selection)
    if context.config.select.checkpoint:
        _write_checkpoints(out, context, selection)


def provenance_of(context: Context, selection: Selection, figures: dict) -> Provenance:
    """Where an exported vocabulary comes from."""
    pair = context.config.pair
    return Provenance(
        version=__version__,
        command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        pair=pair.name,
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


def _write_config(out: Path, context: Context, selection: Selection) -> None:
    """An EAGLE-3 configuration with the new size: the user's, else the draft's own."""
    given = context.config.select.eagle3_config
    if given is None and context.shape.kind is not DraftKind.EAGLE3:
        return
    path = Path(given) if given else context.draft_folder / "config.json"
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"select.eagle3_config={path} cannot be read: {error}") from error
    edited = with_draft_vocab_size(text, len(selection.chosen), str(path))
    (out / "eagle3_config.json").write_bytes(edited.encode("utf-8"))


def _write_checkpoints(out: Path, context: Context, selection: Selection) -> None:
    folder, chosen = context.draft_folder, selection.chosen
    if context.shape.kind is DraftKind.DECODER_LM:
        trim_lm_head(folder, chosen, out / "lm_head")
        return
    pair = context.config.pair
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
