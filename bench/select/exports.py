"""Exports of one vocabulary: maps for engines, a configuration, and the trimmed draft."""

import json
import shlex
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench import __version__
from bench.analysis.run import Run, find_run, read_run
from bench.analysis.summary import held_out_tokens
from bench.analysis.surfaces import Surfaces
from bench.assets import CATALOG
from bench.config import POOLED, Config, PairConfig, SelectConfig
from bench.cost.config_json import DraftKind, read_config
from bench.errors import CheckpointError, ConfigError
from bench.export.checkpoint import head_tensors, read_head, read_tensors, trim_eagle3, trim_lm_head
from bench.export.files import replace_folder
from bench.export.layouts import with_draft_vocab_size
from bench.export.vocab_maps import Provenance, write_maps
from bench.identity import WEIGHTS, Identity, index_sha256, of_model
from bench.models.checkpoint import Purpose, resolve_draft
from bench.models.draft_config import Layout
from bench.models.eagle_files import open_eagle
from bench.models.engines import SGLANG, VLLM, VLLM_RUNNER, needs_first_runner, objections
from bench.models.fetching import resolve_model, resolve_tokenizer
from bench.select.choose import Selection
from bench.select.prepare import Context
from bench.surface.choice import OPTIMUM
from bench.text.tokenizer import TargetTokenizer, load_tokenizer
from bench.variant import Variant
from bench.vocab.draft_vocab import DraftVocab, IntArray, choose_vocab

EXPORTS = "exports"


@dataclass(frozen=True)
class Export:
    """A vocabulary and the draft to trim.

    Attributes:
        chosen: the vocabulary.
        counts: counts of every target token in the domain's ranking responses `(V,)`.
        must_keep: ids in every vocabulary, of any size.
        provenance: origin of the vocabulary, written with every file.
        pair: target and draft.
        draft_folder: the draft's files.
        kind: kind of draft.
        settings: `checkpoint` and `eagle3_config` say what to write.
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
    """The bundle that the selection for domain `name` exports; `figures` is its summary."""
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
    """The running command, as a user types it."""
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
    """An EAGLE-3 configuration with the new size: the user's, or else that of the draft."""
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
    head = None
    if not head_tensors(read_tensors(folder)):
        head = read_head(resolve_model(pair.target, pair.target_revision, pair.trust_remote_code))
    if export.kind is DraftKind.EAGLE:
        # Engines cut the head of these drafts, which is the target's, by a token map.
        trim_lm_head(folder, chosen, out / "lm_head", head)
        return
    for layout, place in ((Layout.SAFEAILAB, "draft"), (Layout.SPECULATORS, "draft-speculators")):
        trim_eagle3(folder, chosen, head, layout, out / place, pair.target)


# Exports the vocabulary that a run measured: the same tokens in the same order as in its decodes.

SUMMARY = "export.json"


@dataclass(frozen=True)
class _Draft:
    pair: PairConfig
    folder: Path
    target_folder: Path
    tokenizer: TargetTokenizer


def run_export(config: Config, console: Console) -> list[Path]:
    """Writes the vocabulary maps and the trimmed draft for the domains of a run.

    Returns:
        One folder per domain.

    Raises:
        ConfigError: there is no such run, or it did not measure that domain.
        CheckpointError: the pair has changed since it was measured.
        VocabError: the size is not possible.
    """
    run = read_run(find_run(config.runs_dir, config.run))
    wanted = config.export.domain
    if wanted is not None and wanted not in run.decodes:
        raise ConfigError(
            f"export.domain={wanted}: the run {run.folder.name} measured {', '.join(run.decodes)}"
        )
    with console.status("checking the pair"):
        draft = _draft_of(run)
    surfaces, folders = Surfaces(run), []
    for domain in [wanted] if wanted else list(run.decodes):
        folder = _folder_of(config, run, domain, is_only=wanted is not None)
        variant = _variant(surfaces, domain, config.export.vocab_size)
        size, gamma = variant.vocab_size, variant.draft_length
        with console.status(f"writing {folder}"), replace_folder(folder, SUMMARY) as fresh:
            export = _export(config, run, draft, domain, size)
            write_exports(fresh, export)
            serve = _serve(draft, gamma, folder.resolve(), fresh / EXPORTS, export)
            told = _told(run, domain, gamma, export, serve)
            (fresh / SUMMARY).write_text(json.dumps(told, indent=2) + "\n", "utf-8")
        console.print(f"[bold]{domain}: {size:,} tokens, gamma = {gamma}: {folder}[/bold]", highlight=False)
        for engine, command in (told["serve"] or {}).items():
            console.print(f"  {engine}: {command}", highlight=False, soft_wrap=True, markup=False)
        folders.append(folder)
    return folders


def _draft_of(run: Run) -> _Draft:
    known = {item.name for item in fields(PairConfig)}
    pair = PairConfig(**{key: value for key, value in run.config["pair"].items() if key in known})
    folder = resolve_draft(pair.draft, pair.draft_revision, purpose=Purpose.TRIM)
    target = resolve_model(pair.target, pair.target_revision)
    for what, name, files in (("draft", pair.draft, folder), ("target", pair.target, target)):
        if changed := _changed(run, what, name, files):
            raise CheckpointError(
                f"the {what} {name} has changed since {run.folder.name} measured it ({', '.join(changed)}); "
                "measure again, or restore it"
            )
    source = resolve_tokenizer(pair.target, pair.target_revision, pair.trust_remote_code)
    tokenizer = load_tokenizer(source, pair.trust_remote_code)
    return _Draft(pair, folder, target, tokenizer)


def _changed(run: Run, what: str, name: str, files: Path) -> list[str]:
    """Ingredients of a model that are not those that the run recorded."""
    recorded, weights = run.environment.get("identity", {}).get(what), run.environment[f"{what}_fingerprint"]
    if recorded is None:
        is_pinned = what == "target" and name in CATALOG
        now = Identity({WEIGHTS: CATALOG[name].sha256 if is_pinned else index_sha256(files)})
        return now.differences({WEIGHTS: weights})
    return of_model(name, files).differences({**recorded, WEIGHTS: weights})


def _folder_of(config: Config, run: Run, domain: str, is_only: bool) -> Path:
    if config.out_dir is None:
        return config.results_of("exports") / f"{run.folder.name}-{domain}"
    return config.out_dir if is_only else config.out_dir / domain


def _variant(surfaces: Surfaces, domain: str, size: int | None) -> Variant:
    """The requested size with its fastest draft length, or else the best variant that the run decoded."""
    if size is None:
        return surfaces.run.variant_of(domain, OPTIMUM)
    return Variant(size, surfaces.of(domain).best_draft_length(size))


def _export(config: Config, run: Run, draft: _Draft, domain: str, size: int) -> Export:
    source, vocab_size = run.plans[domain].source, draft.tokenizer.vocab_size
    ranking = run.rankings[source]
    must_keep = ranking.order[: ranking.num_must_keep].tolist()
    chosen = choose_vocab(ranking.order, must_keep, size, vocab_size)
    counted = run.rankings[domain]
    counts = np.zeros(vocab_size, dtype=np.int64)
    counts[counted.order] = counted.counts
    members = [name for name in run.rankings if name != POOLED] if source == POOLED else [source]
    provenance = Provenance(
        version=__version__,
        command=command_line(),
        pair=draft.pair.label,
        domain=domain,
        target=draft.pair.target,
        target_revision=draft.pair.target_revision,
        tokenizer_hash=draft.tokenizer.fingerprint,
        source_id=f"run {run.folder.name}",
        ranking=dict.fromkeys(members, 1.0),
        responses="target",
        vocab_size=size,
        target_vocab_size=vocab_size,
        coverage_train=float(ranking.coverage()[size - 1]),
        coverage_heldout=float(ranking.coverage_of(held_out_tokens(run, domain))[size - 1]),
        content_hash=chosen.content_hash,
        num_ranking_tokens=int(counts.sum()),
    )
    kind = DraftKind(run.environment["shapes"]["draft"]["kind"])
    return Export(chosen, counts, must_keep, provenance, draft.pair, draft.folder, kind, config.select)


def _told(run: Run, domain: str, gamma: int, export: Export, serve: dict[str, str]) -> dict[str, Any]:
    return {
        "run": run.folder.name,
        "device_name": run.environment["device_name"],
        "draft_length": gamma,
        **asdict(export.provenance),
        "domain": domain,
        "serve": serve if export.settings.checkpoint else None,
    }


def _serve(draft: _Draft, gamma: int, folder: Path, written: Path, export: Export) -> dict[str, str]:
    """By engine, the command line that loads the trimmed draft, or why it computes something else.

    Args:
        draft: that was measured.
        gamma: draft length.
        folder: where the export will stand.
        written: where its files are now.
        export: what they hold.
    """
    if not export.settings.checkpoint or export.kind is DraftKind.DECODER_LM:
        return {}
    # Engines know hub ids, but not the names of our catalogue.
    target = draft.pair.target if draft.pair.target not in CATALOG else str(draft.target_folder)
    source = draft.folder if export.kind is DraftKind.EAGLE else written / "draft"
    files = open_eagle(source, export.kind, draft.pair.ignore_keys, may_be_quantised=True)
    against = objections(files.config, read_config(source / "config.json")[1], files.layers)
    if export.kind is DraftKind.EAGLE:
        against[VLLM].append("it cuts no head of an EAGLE-1 or EAGLE-2 draft")
    commands = _commands(target, gamma, folder, source, export.kind, needs_first_runner(files.config))
    return {
        engine: f"not loaded as measured: {', '.join(reasons)}" if reasons else commands[engine]
        for engine, reasons in against.items()
    }


def _commands(
    target: str, gamma: int, folder: Path, source: Path, kind: DraftKind, needs_runner: bool
) -> dict[str, str]:
    """Command lines by engine."""
    is_eagle3 = kind is DraftKind.EAGLE3
    path = str(folder / EXPORTS / "draft") if is_eagle3 else str(source)
    settings = json.dumps({"method": "eagle3", "model": path, "num_speculative_tokens": gamma})
    runner = f"{VLLM_RUNNER} " if needs_runner else ""
    map_path = folder / EXPORTS / "sglang" / "token_map.pt"
    token_map = "" if is_eagle3 else f" --speculative-token-map {map_path}"
    return {
        VLLM: f"{runner}vllm serve {target} --speculative-config '{settings}'",
        SGLANG: f"python -m sglang.launch_server --model-path {target} "
        f"--speculative-algorithm {'EAGLE3' if is_eagle3 else 'EAGLE'} "
        f"--speculative-draft-model-path {path} --speculative-num-steps {gamma} --speculative-eagle-topk 1 "
        f"--speculative-num-draft-tokens {gamma + 1}{token_map}",
    }
