"""One row for everything that was decoded: latency, acceptance, speed, and how well it was predicted."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.latency import step_samples
from bench.analysis.run import Key, Run, decode_series, speedup
from bench.analysis.surfaces import Surfaces, baseline_keys, replay_deviation
from bench.records import DecodeRecord
from bench.telemetry.windows import energy_between

SUMMARY_COLUMNS = [
    "pair", "domain", "device_name", "dtype", "role", "source", "vocab_size", "draft_length",
    "coverage_train", "coverage_heldout", "draft_step_ms", "lm_head_ms", "verify_ms", "acceptance_rate",
    "mean_acceptance_length", "predicted_mean_acceptance_length", "tokens_per_s",
    "predicted_tokens_per_s", "predicted_ci_low",
    "predicted_ci_high", "prediction_error", "speedup_vs_autoregressive", "speedup_vs_autoregressive_ci_low",
    "speedup_vs_autoregressive_ci_high", "speedup_vs_full_vocab", "speedup_vs_full_vocab_ci_low",
    "speedup_vs_full_vocab_ci_high", "identical_output_frac", "replay_deviating_rounds", "num_prompts",
    "num_tokens", "energy_j_per_token", "energy_spread",
]  # fmt: skip


def summary_frame(surfaces: Surfaces) -> pd.DataFrame:
    """One row per domain and decoded variant, with `SUMMARY_COLUMNS`."""
    rows = [
        _summary_row(surfaces, domain, (size, gamma), role)
        for domain in surfaces.run.decodes
        for size, gamma, role in sorted(
            surfaces.run.plans[domain].variants, key=lambda v: (v[1] > 0, -v[0], v[1])
        )
    ]
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def _summary_row(surfaces: Surfaces, domain: str, key: Key, role: str) -> dict[str, Any]:
    run, (size, gamma) = surfaces.run, key
    by_prompt = run.decodes[domain][key]
    tokens, times = decode_series(by_prompt)
    plain_key, full_key, _ = baseline_keys(run, domain)
    plain = run.decodes[domain][plain_key]
    accepted = [count for record in by_prompt.values() for count in record.accepted]
    against_plain = speedup(run, domain, key, plain_key)
    against_full = speedup(run, domain, key, full_key) if gamma else None
    measured = float(tokens.sum() / times.sum() * 1e3)
    energy = token_energy(run, domain, key)
    row = {
        "pair": run.environment["pair"],
        "domain": domain,
        "device_name": run.environment["device_name"],
        "dtype": run.environment["dtype"],
        "role": role,
        "vocab_size": size,
        "draft_length": gamma,
        "acceptance_rate": sum(accepted) / (len(accepted) * gamma) if accepted else None,
        "mean_acceptance_length": 1 + sum(accepted) / len(accepted) if accepted else 1.0,
        "tokens_per_s": measured,
        "speedup_vs_autoregressive": against_plain.value if against_plain else None,
        "speedup_vs_autoregressive_ci_low": against_plain.ci_low if against_plain else None,
        "speedup_vs_autoregressive_ci_high": against_plain.ci_high if against_plain else None,
        "speedup_vs_full_vocab": against_full.value if against_full else None,
        "speedup_vs_full_vocab_ci_low": against_full.ci_low if against_full else None,
        "speedup_vs_full_vocab_ci_high": against_full.ci_high if against_full else None,
        # Sampled answers are meant to differ.
        "identical_output_frac": None if run.is_sampled else _share_identical(by_prompt, plain),
        "replay_deviating_rounds": replay_deviation(run, domain, key),
        "num_prompts": len(by_prompt),
        "num_tokens": int(tokens.sum()),
        "energy_j_per_token": energy.j_per_token,
        "energy_spread": energy.spread,
    }
    return (
        row | _latencies(run, domain, key) | (_of_a_draft(surfaces, domain, key, measured) if gamma else {})
    )


def _share_identical(by_prompt: dict[str, DecodeRecord], plain: dict[str, DecodeRecord]) -> float:
    return float(np.mean([by_prompt[p].token_ids == plain[p].token_ids for p in by_prompt]))


def _latencies(run: Run, domain: str, key: Key) -> dict[str, float]:
    """Medians inside the variant's own decodes."""
    pooled: dict[str, list[float]] = defaultdict(list)
    for record in run.decodes[domain][key].values():
        samples = step_samples(record.laps_ms, key[1]) if key[1] else record.laps_ms
        for part in ("draft_step", "lm_head", "verify"):
            pooled[part] += samples.get(part, [])
    return {f"{part}_ms": float(np.median(samples)) for part, samples in pooled.items() if samples}


def _of_a_draft(surfaces: Surfaces, domain: str, key: Key, measured: float) -> dict[str, Any]:
    run, surface, (size, gamma) = surfaces.run, surfaces.of(domain), key
    source = run.plans[domain].source
    ranking = run.rankings[source]
    row, column = surface.draft_lengths.index(gamma), surface.column(size)
    predicted = float(surface.tokens_per_s[row, column])
    return {
        "source": source,
        "coverage_train": float(ranking.coverage()[size - 1]),
        "coverage_heldout": float(ranking.coverage_of(held_out_tokens(run, domain))[size - 1]),
        "predicted_mean_acceptance_length": float(surface.mean_acceptance_length[row, column]),
        "predicted_tokens_per_s": predicted,
        "predicted_ci_low": float(surface.ci_low[row, column]),
        "predicted_ci_high": float(surface.ci_high[row, column]),
        "prediction_error": predicted / measured - 1,
    }


def held_out_tokens(run: Run, domain: str) -> np.ndarray:
    """All tokens of the target's held-out answers `(n,)`."""
    replays = run.replays[domain][run.plans[domain].source]
    return np.concatenate([np.array(replays[p].token_ids) for p in run.prompts[domain]])


# Energy per token of what was decoded, where a run measured it.


@dataclass(frozen=True)
class Energy:
    """Energy of decoding.

    Attributes:
        j_per_token: joules per token after the first; None where it is not known.
        reason: why it is not known; empty where it is.
    """

    j_per_token: float | None
    reason: str = ""

    @property
    def tokens_per_joule(self) -> float | None:
        """The inverse."""
        return None if self.j_per_token is None else 1 / self.j_per_token


def energy_of(run: Run, domain: str, key: Key) -> Energy:
    """Of one variant over all prompts of a domain.

    Args:
        run: the run.
        domain: its domain.
        key: k and gamma.
    """
    found = token_energy(run, domain, key)
    return Energy(found.j_per_token, found.reason or "")


# Energy per token of what was decoded, from the samples beside a run.


@dataclass(frozen=True)
class TokenEnergy:
    """Energy of decoding; idle power is part of it, as it is part of the bill.

    Attributes:
        j_per_token: joules per token after the first; None where it is not known.
        method: how the energy was found, as `bench.telemetry.windows.Energy`.
        reason: why it is not known; None where it is.
        spread: largest less smallest of the windows in which it decoded without a pause, over their mean;
            None without such windows.
    """

    j_per_token: float | None
    method: str | None = None
    reason: str | None = None
    spread: float | None = None


def token_energy(run: Run, domain: str, key: Key) -> TokenEnergy:
    """Of one variant: while it decoded without a pause, else over its decodes where each was long enough."""
    steady = run.steady.get(domain, {}).get(key, [])
    if steady:
        windows = [(record.start_s, record.end_s, record.num_tokens) for record in steady]
    else:
        windows = [
            (r.start_s, r.end_s, len(r.token_ids) - 1)
            for r in run.decodes[domain][key].values()
            if r.start_s is not None and r.end_s is not None
        ]
    telemetry = run.environment.get("telemetry") or {}
    of_gpu = bool(run.environment.get("cuda"))
    if not run.samples.rows or not windows or (of_gpu and telemetry.get("why_not")):
        return TokenEnergy(None, None, telemetry.get("why_not") or "nothing was sampled beside this run")
    energies, counts = [], [num_tokens for *_, num_tokens in windows]
    for start_s, end_s, _ in windows:
        found = energy_between(run.samples.rows, start_s, end_s, of_gpu)
        if found.energy_j is None:
            return TokenEnergy(None, None, _no_sensor(run, of_gpu) or found.reason)
        energies.append(found.energy_j)
    each = [energy_j / count for energy_j, count in zip(energies, counts, strict=True)] if steady else []
    spread = (max(each) - min(each)) / (sum(each) / len(each)) if len(each) > 1 else None
    return TokenEnergy(sum(energies) / sum(counts), found.method, None, spread)


def _no_sensor(run: Run, of_gpu: bool) -> str | None:
    """Why no sensor tells the energy of the device; None where one does."""
    fields, unsupported = ("energy_j", "power_w") if of_gpu else ("cpu_energy_j",), run.samples.unsupported
    if not all(name in unsupported for name in fields):
        return None
    return "; ".join(dict.fromkeys(unsupported[name] for name in fields))
