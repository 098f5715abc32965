"""What is exported: the vocabulary of a selection, or the one that a run measured."""

import json
import shlex
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench import __version__
from bench.acceptance import Intervals, Ratios
from bench.analysis.run import Run, find_run, read_run
from bench.analysis.schedules import served_speeds
from bench.analysis.summary import held_out_tokens
from bench.analysis.surfaces import Surfaces
from bench.assets import CATALOG
from bench.config import POOLED, Config, ExportConfig, PairConfig
from bench.cost.config_json import DraftKind
from bench.errors import CheckpointError, ConfigError
from bench.export.bundle import EXPORTS, Export, serve_commands, speculative_config, write_exports
from bench.export.files import replace_folder
from bench.export.speculation_profile import (
    PROFILE,
    SCHEDULE,
    SYNTHETIC,
    speculation_profile,
    synthetic_settings,
)
from bench.export.vocab_maps import Provenance
from bench.identity import WEIGHTS, Identity, index_sha256, of_model
from bench.models.checkpoint import Purpose, resolve_pair_draft
from bench.models.fetching import resolve_model, resolve_tokenizer
from bench.progress import stage
from bench.select.choose import Selection
from bench.select.prepare import Context
from bench.surface.choice import OPTIMUM
from bench.surface.schedule import KEY, schedule_of
from bench.text.tokenizer import TargetTokenizer, load_tokenizer
from bench.variant import Variant
from bench.vocab.draft_vocab import Floats, choose_vocab


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
    if not run.has_ended:
        unfinished = f"{run.folder.name} is unfinished: a finished run may recommend another vocabulary"
        console.print(unfinished, soft_wrap=True, highlight=False, markup=False)
    wanted = config.export.domain
    if wanted is not None and wanted not in run.decodes:
        raise ConfigError(
            f"export.domain={wanted}: the run {run.folder.name} measured {', '.join(run.decodes)}"
        )
    with stage(console, "checking the pair"):
        draft = _draft_of(run)
    # Engines know hub ids, but not the names of our catalogue.
    target = draft.pair.target if draft.pair.target not in CATALOG else str(draft.target_folder)
    surfaces, folders = Surfaces(run), []
    for domain in [wanted] if wanted else list(run.decodes):
        folder = _folder_of(config, run, domain, is_only=wanted is not None)
        variant = _variant(surfaces, domain, config.export)
        size, gamma = variant.vocab_size, variant.draft_length
        with stage(console, f"writing {folder}"), replace_folder(folder, SUMMARY) as fresh:
            export = _export(config, run, draft, domain, size)
            write_exports(fresh, export)
            profile, schedule = _profile(run, domain, variant, export), _schedule(run, domain, size)
            (fresh / EXPORTS / PROFILE).write_text(json.dumps(profile, indent=2) + "\n", "utf-8")
            if export.settings.checkpoint and export.kind is DraftKind.EAGLE3:
                trimmed = folder.resolve() / EXPORTS / "draft"
                synthetic = speculative_config(trimmed, gamma) | synthetic_settings(profile)
                (fresh / EXPORTS / SYNTHETIC).write_text(json.dumps(synthetic) + "\n", "utf-8")
                if settings := schedule.get("settings"):
                    scheduled = speculative_config(trimmed, schedule["longest"]) | settings
                    (fresh / EXPORTS / SCHEDULE).write_text(json.dumps(scheduled) + "\n", "utf-8")
            serve = serve_commands(export, target, gamma, folder.resolve(), fresh / EXPORTS)
            summary = {**_summary(run, domain, gamma, export, serve), "schedule": schedule}
            (fresh / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
        console.print(f"[bold]{domain}: {size:,} tokens, gamma = {gamma}: {folder}[/bold]", highlight=False)
        for engine, command in (summary["serve"] or {}).items():
            console.print(f"  {engine}: {command}", highlight=False, soft_wrap=True, markup=False)
        folders.append(folder)
    return folders


def _draft_of(run: Run) -> _Draft:
    known = {item.name for item in fields(PairConfig)}
    pair = PairConfig(**{key: value for key, value in run.config["pair"].items() if key in known})
    folder = resolve_pair_draft(pair, purpose=Purpose.TRIM)
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


def _variant(surfaces: Surfaces, domain: str, wanted: ExportConfig) -> Variant:
    """What was asked for; else the variant that the run recommends, or the fastest draft length of a size.

    Raises:
        ConfigError: the run replayed no rounds of that draft length.
    """
    size, length = wanted.vocab_size, wanted.draft_length
    found = surfaces.run.variant_of(domain, OPTIMUM)
    if size is not None:
        found = Variant(size, surfaces.of(domain).best_draft_length(size))
    longest = _longest(surfaces.run)
    if length is not None and length > longest:
        raise ConfigError(
            f"export.draft_length={length}: the run replayed rounds of at most {longest} tokens"
        )
    return found if length is None else Variant(found.vocab_size, length)


def _longest(run: Run) -> int:
    """Tokens of the longest round that was replayed."""
    return max(run.config["measure"]["draft_lengths"])


def _replays(run: Run, domain: str) -> list[Intervals | Ratios]:
    """Of every answer that leaves something to decode, under the ranking of the domain's plan."""
    records = run.replays[domain][run.plans[domain].source].values()
    return [record.replayed() for record in records if len(record.token_ids) > 1]


def _profile(run: Run, domain: str, variant: Variant, export: Export) -> dict[str, Any]:
    """The acceptance of a variant in the run's replay."""
    replays, size = _replays(run, domain), np.array([variant.vocab_size])

    def walks(draft_length: int) -> tuple[Floats, Floats]:
        found = [replay.walk(draft_length).at(size) for replay in replays]
        return np.array([rounds[0] for rounds, _ in found]), np.array([at[:, 0] for _, at in found])

    measured = run.config["measure"]
    return speculation_profile(
        {length: walks(length) for length in range(1, _longest(run) + 1)},
        variant.draft_length,
        None if export.kind is DraftKind.DECODER_LM else export.kind.value,
        draft={
            "id": export.pair.draft,
            "draft_vocab_size": variant.vocab_size,
            "content_hash": export.provenance.content_hash,
        },
        target={"id": export.pair.target},
        conditions={
            "producer": f"vocabtrim-bench {__version__}, replay of the target's own answers",
            "run": run.folder.name,
            "dataset": domain,
            "num_samples": len(replays),
            "num_tokens": sum(replay.num_tokens for replay in replays),
            "max_new_tokens": measured["max_new_tokens"],
            "temperature": measured["temperature"],
        },
    )


def _schedule(run: Run, domain: str, size: int) -> dict[str, Any]:
    """Draft lengths by batch size from what another engine decoded, or why there are none."""
    speeds = served_speeds(run, domain, size)
    if not speeds:
        return {
            "why_not": f"no other engine decoded a draft of {size:,} tokens: make bench engine=own,vllm "
            "measures it, make gpus estimates it"
        }
    found = schedule_of(speeds)
    engine = run.served[domain][0]
    basis = {
        "basis": f"tokens/s measured in {engine.engine} {engine.engine_version} on "
        f"{run.environment['device_name']}, by requests in flight and draft length (0: plain decoding)",
        "tokens_per_s": speeds,
        "loss_at": found.losses,
    }
    if not found.longest:
        return {"why_not": "plain decoding is fastest at every number of requests", **basis}
    return {"settings": {KEY: found.ranges}, "longest": found.longest, **basis}


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
    gguf = None if config.export.gguf is None else Path(config.export.gguf)
    return Export(chosen, counts, must_keep, provenance, draft.pair, draft.folder, kind, config.select, gguf)


def _summary(run: Run, domain: str, gamma: int, export: Export, serve: dict[str, str]) -> dict[str, Any]:
    return {
        "run": run.folder.name,
        "run_has_ended": run.has_ended,
        "device_name": run.environment["device_name"],
        "draft_length": gamma,
        **asdict(export.provenance),
        "domain": domain,
        "serve": serve if export.settings.checkpoint else None,
    }
