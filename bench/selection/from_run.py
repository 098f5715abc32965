"""Exports the vocabulary that a run measured: the very tokens, in the order that its decodes used."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench import __version__
from bench.assets import CATALOG
from bench.config import POOLED, Config, PairConfig
from bench.corpus.tokenizer import TargetTokenizer, load_tokenizer
from bench.cost.flops import DraftKind
from bench.errors import CheckpointError, ConfigError
from bench.export.atomic import replace_folder
from bench.export.provenance import Provenance
from bench.models.checkpoint import resolve_draft
from bench.models.target import resolve_model, resolve_tokenizer
from bench.pair import fingerprint_of, weights_sha256
from bench.report.frames import Run, read_run
from bench.report.render import find_run
from bench.report.summary import held_out_tokens
from bench.report.surfaces import Surfaces, baseline_keys
from bench.selection.exports import EXPORTS, Export, command_line, write_exports
from bench.vocab.draft_vocab import choose_vocab

SUMMARY = "export.json"


@dataclass(frozen=True)
class _Draft:
    pair: PairConfig
    folder: Path
    target_folder: Path
    tokenizer: TargetTokenizer


def run_export(config: Config, console: Console) -> list[Path]:
    """Writes the vocabulary maps and the trimmed draft of a run's domains.

    Returns:
        One folder per domain.

    Raises:
        ConfigError: there is no such run, or it did not measure that domain.
        CheckpointError: the pair is no longer the one that was measured.
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
        size, gamma = _key(surfaces, domain, config.export.vocab_size)
        with console.status(f"writing {folder}"), replace_folder(folder, SUMMARY) as fresh:
            export = _export(config, run, draft, domain, size)
            write_exports(fresh, export)
            told = _told(run, domain, gamma, export, _serve(draft, gamma, folder.resolve()))
            (fresh / SUMMARY).write_text(json.dumps(told, indent=2) + "\n", "utf-8")
        console.print(f"[bold]{domain}: {size:,} tokens, gamma = {gamma}: {folder}[/bold]", highlight=False)
        for engine, command in (told["serve"] or {}).items():
            console.print(f"  {engine}: {command}", highlight=False, soft_wrap=True, markup=False)
        folders.append(folder)
    return folders


def _draft_of(run: Run) -> _Draft:
    known = {item.name for item in fields(PairConfig)}
    pair = PairConfig(**{key: value for key, value in run.config["pair"].items() if key in known})
    folder = resolve_draft(pair.draft, pair.draft_revision)
    target = resolve_model(pair.target, pair.target_revision)
    for what, now, then in (
        ("draft", weights_sha256(folder), run.environment["draft_fingerprint"]),
        ("target", fingerprint_of(pair.target, target), run.environment["target_fingerprint"]),
    ):
        if now != then:
            raise CheckpointError(
                f"the {what} {getattr(pair, what)} has changed since {run.folder.name} measured it "
                f"(sha256 {then[:12]} then, {now[:12]} now); measure again, or bring those weights back"
            )
    tokenizer = load_tokenizer(resolve_tokenizer(pair.target, pair.target_revision), pair.trust_remote_code)
    return _Draft(pair, folder, target, tokenizer)


def _folder_of(config: Config, run: Run, domain: str, is_only: bool) -> Path:
    if config.out is None:
        return Path(config.results_dir) / "exports" / f"{run.folder.name}-{domain}"
    return Path(config.out) if is_only else Path(config.out) / domain


def _key(surfaces: Surfaces, domain: str, size: int | None) -> tuple[int, int]:
    """The asked size with its fastest draft length, else what the run proved."""
    if size is None:
        return baseline_keys(surfaces.run, domain)[2]
    return size, surfaces.of(domain).best_draft_length(size)


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
    # A run measures EAGLE-3 drafts only.
    kind = DraftKind.EAGLE3
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


def _serve(draft: _Draft, gamma: int, folder: Path) -> dict[str, str]:
    """Command lines that load the trimmed draft."""
    # Names of the catalogue mean nothing to an engine; those of the hub do.
    target = draft.pair.target if draft.pair.target not in CATALOG else str(draft.target_folder)
    path = str(folder / EXPORTS / "draft")
    settings = json.dumps({"method": "eagle3", "model": path, "num_speculative_tokens": gamma})
    return {
        "vLLM": f"vllm serve {target} --speculative-config '{settings}'",
        "SGLang": f"python -m sglang.launch_server --model-path {target} --speculative-algorithm EAGLE3 "
        f"--speculative-draft-model-path {path} --speculative-num-steps {gamma} --speculative-eagle-topk 1 "
        f"--speculative-num-draft-tokens {gamma + 1}",
    }
