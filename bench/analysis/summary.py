"""One row for everything that was decoded: latency, acceptance, speed, and how well it was predicted."""

from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.latency import step_samples
from bench.analysis.metrics import estimate_columns
from bench.analysis.run import Run, decode_series, speedup
from bench.analysis.surfaces import Surfaces, baselines, replay_deviation
from bench.analysis.telemetry import token_energy
from bench.records import DecodeRecord
from bench.variant import PlannedDecode, Variant

SUMMARY_COLUMNS = [
    "pair", "domain", "device_name", "dtype", "role", "source", "vocab_size", "draft_length",
    "coverage_train", "coverage_heldout", "draft_step_ms", "lm_head_ms", "verify_ms", "acceptance_rate",
    "mean_acceptance_length", "predicted_mean_acceptance_length", "tokens_per_s",
    "predicted_tokens_per_s", "predicted_ci_low", "predicted_ci_high", "prediction_error", "replayed_frac",
    "replayed_text_error", "speedup_vs_autoregressive", "speedup_vs_autoregressive_ci_low",
    "speedup_vs_autoregressive_ci_high", "speedup_vs_full_vocab", "speedup_vs_full_vocab_ci_low",
    "speedup_vs_full_vocab_ci_high", "identical_output_frac", "replay_deviating_rounds", "num_prompts",
    "num_tokens", "energy_j_per_token", "energy_spread", "verdict", "invalid_figures", "invalid_because",
]  # fmt: skip


def summary_frame(surfaces: Surfaces) -> pd.DataFrame:
    """One row per domain and decoded variant, with `SUMMARY_COLUMNS`; those of the verdict are empty."""
    rows = [
        _summary_row(surfaces, domain, item)
        for domain in surfaces.run.decodes
        for item in sorted(surfaces.run.plans[domain].planned, key=lambda item: shown_order(item.variant))
    ]
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def shown_order(variant: Variant) -> tuple[bool, int, int]:
    """Plain decoding first, then from the largest vocabulary to the smallest."""
    return not variant.is_plain, -variant.vocab_size, variant.draft_length


def _summary_row(surfaces: Surfaces, domain: str, item: PlannedDecode) -> dict[str, Any]:
    run, variant = surfaces.run, item.variant
    gamma = variant.draft_length
    by_prompt = run.decodes[domain][variant]
    tokens, times = decode_series(by_prompt)
    plain, full, _ = baselines(run, domain)
    plain_decodes = run.decodes[domain][plain]
    accepted = [count for record in by_prompt.values() for count in record.accepted]
    against_plain = speedup(run, domain, variant, plain)
    against_full = speedup(run, domain, variant, full) if gamma else None
    measured = float(tokens.sum() / times.sum() * 1e3)
    energy = token_energy(run, domain, variant)
    row = {
        "pair": run.environment["pair"],
        "domain": domain,
        "device_name": run.environment["device_name"],
        "dtype": run.environment["dtype"],
        "role": item.role,
        **variant.columns,
        "acceptance_rate": sum(accepted) / (len(accepted) * gamma) if accepted else None,
        "mean_acceptance_length": 1 + sum(accepted) / len(accepted) if accepted else 1.0,
        "tokens_per_s": measured,
        **estimate_columns("speedup_vs_autoregressive", against_plain),
        **estimate_columns("speedup_vs_full_vocab", against_full),
        # Sampled answers are meant to differ.
        "identical_output_frac": None if run.is_sampled else _share_identical(by_prompt, plain_decodes),
        "replay_deviating_rounds": replay_deviation(run, domain, variant),
        "num_prompts": len(by_prompt),
        "num_tokens": int(tokens.sum()),
        "energy_j_per_token": energy.j_per_token,
        "energy_spread": energy.spread,
        "verdict": None,
        "invalid_figures": None,
        "invalid_because": None,
    }
    return (
        row
        | _latencies(run, domain, variant)
        | ({} if variant.is_plain else _of_a_draft(surfaces, domain, variant, measured))
    )


def _share_identical(by_prompt: dict[str, DecodeRecord], plain: dict[str, DecodeRecord]) -> float:
    return float(np.mean([by_prompt[p].token_ids == plain[p].token_ids for p in by_prompt]))


def _latencies(run: Run, domain: str, variant: Variant) -> dict[str, float]:
    """Medians inside the variant's own decodes."""
    pooled: dict[str, list[float]] = defaultdict(list)
    for record in run.decodes[domain][variant].values():
        laps = record.laps_ms
        samples = laps if variant.is_plain else step_samples(laps, variant.draft_length)
        for part in ("draft_step", "lm_head", "verify"):
            pooled[part] += samples.get(part, [])
    return {f"{part}_ms": float(np.median(samples)) for part, samples in pooled.items() if samples}


def _of_a_draft(surfaces: Surfaces, domain: str, variant: Variant, measured: float) -> dict[str, Any]:
    run, expected = surfaces.run, surfaces.expected(domain, variant)
    source = run.plans[domain].source
    ranking = run.rankings[source]
    size, speed = variant.vocab_size, expected.speed.estimate
    return {
        "source": source,
        "coverage_train": float(ranking.coverage()[size - 1]),
        "coverage_heldout": float(ranking.coverage_of(held_out_tokens(run, domain))[size - 1]),
        "predicted_mean_acceptance_length": expected.mean_acceptance_length,
        "predicted_tokens_per_s": speed.value,
        "predicted_ci_low": speed.ci_low,
        "predicted_ci_high": speed.ci_high,
        "prediction_error": speed.value / measured - 1,
        "replayed_frac": expected.replayed_frac,
        "replayed_text_error": expected.as_replayed.estimate.value / measured - 1,
    }


def held_out_tokens(run: Run, domain: str) -> np.ndarray:
    """All tokens of the target's held-out answers, of all that were replayed `(n,)`."""
    replays = run.replays[domain][run.plans[domain].source]
    return np.concatenate([np.array(record.token_ids) for _, record in sorted(replays.items())])


def coverage_curves(run: Run, domain: str) -> pd.DataFrame:
    """What every size covers of held-out answers and, optimistically, of those that made the ranking."""
    ranking = run.rankings[run.plans[domain].source]
    return pd.DataFrame({
        "domain": domain,
        "vocab_size": np.arange(1, run.full_size + 1),
        "coverage_heldout": ranking.coverage_of(held_out_tokens(run, domain)),
        "coverage_ranking": ranking.coverage(),
    })  # fmt: skip


def size_frame(surfaces: Surfaces, domain: str) -> pd.DataFrame:
    """Coverage, acceptance and predicted speed of the sizes that were probed, at the best draft length."""
    surface, covered = surfaces.of(domain), coverage_curves(surfaces.run, domain)
    sizes = np.unique([*surfaces.latency[domain].sizes.tolist(), surfaces.advice(domain).best.vocab_size])
    columns = [surface.column(int(size)) for size in sizes]
    rows = surface.tokens_per_s[:, columns].argmax(axis=0)
    return pd.DataFrame({
        "domain": domain,
        "vocab_size": sizes,
        "coverage_heldout": covered["coverage_heldout"].to_numpy()[sizes - 1],
        "coverage_ranking": covered["coverage_ranking"].to_numpy()[sizes - 1],
        "draft_length": np.array(surface.draft_lengths)[rows],
        "mean_acceptance_length": surface.mean_acceptance_length[rows, columns],
        "acceptance_rate": surface.acceptance_rate[rows, columns],
        "predicted_tokens_per_s": surface.tokens_per_s[rows, columns],
        "predicted_ci_low": surface.ci_low[rows, columns],
        "predicted_ci_high": surface.ci_high[rows, columns],
        "in_confidence_set": surface.is_equal[rows, columns],
    })  # fmt: skip
