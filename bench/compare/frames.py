"""Tables of a comparison: what is best on every device, what a size costs there, and who is first."""

from typing import Any

import numpy as np
import pandas as pd

from bench.compare.comparison import Comparison, Entry
from bench.compare.energy import energy_of
from bench.compare.transfer import step_medians, step_series, step_times
from bench.fit.series import LatencySeries
from bench.measure.stats import Estimate
from bench.report.frames import speedup
from bench.report.hardware import hardware_of
from bench.report.surfaces import baseline_keys, measured_tokens_per_s

BEST_COLUMNS = [
    "case", "domain", "device", "num_prompts", "vocab_size", "vocab_size_ci_low", "vocab_size_ci_high",
    "confident_low", "confident_high", "draft_length", "draft_length_ci_low", "draft_length_ci_high",
    "predicted_tokens_per_s", "predicted_ci_low", "predicted_ci_high", "decoded_vocab_size",
    "decoded_draft_length", "tokens_per_s", "plain_tokens_per_s", "full_tokens_per_s", "speedup_vs_plain",
    "speedup_vs_plain_ci_low", "speedup_vs_plain_ci_high", "speedup_vs_full", "speedup_vs_full_ci_low",
    "speedup_vs_full_ci_high", "energy_j_per_token", "plain_energy_j_per_token", "tokens_per_joule",
    "energy_reason",
]  # fmt: skip
SPEED_COLUMNS = [
    "case", "domain", "device", "vocab_size", "draft_length", "predicted_tokens_per_s",
    "predicted_speedup_vs_plain", "ci_low", "ci_high",
]  # fmt: skip
STEP_COLUMNS = [
    "case", "device", "vocab_size", "median_ms", "ci_low_ms", "ci_high_ms", "num_samples",
    "moved_bytes", "memory_bytes_per_s", "rates_from",
]  # fmt: skip
RANK_COLUMNS = [
    "place", "case", "domain", "device", "vocab_size", "draft_length", "tokens_per_s", "tokens_per_joule",
    "speedup_vs_plain", "note",
]  # fmt: skip


def best_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per case, domain and device, with `BEST_COLUMNS`.

    `vocab_size` and `draft_length` are the predicted fastest, with their bootstrap intervals over prompts and
    the confidence set of sizes. `tokens_per_s`, speedups and energy are measured, of the
    optimum as it was decoded, whose size is `decoded_vocab_size`.
    """
    rows = [_best_row(entry) for entry in comparison.entries]
    return pd.DataFrame(rows, columns=BEST_COLUMNS)


def _best_row(entry: Entry) -> dict[str, Any]:
    run, domain, surface = entry.run, entry.domain, entry.surface
    plain, full, decoded = baseline_keys(run, domain)
    measured, advice = measured_tokens_per_s(run, domain), entry.surfaces.advice(domain)
    size, gamma = surface.best
    (k_low, k_high), (gamma_low, gamma_high) = surface.best_intervals
    row, column = surface.draft_lengths.index(gamma), surface.column(size)
    energy, plain_energy = energy_of(run, domain, decoded), energy_of(run, domain, plain)
    confident = advice.confident_sizes
    return {
        "case": entry.case,
        "domain": domain,
        "device": entry.device,
        "num_prompts": entry.num_prompts,
        "vocab_size": size,
        "vocab_size_ci_low": k_low,
        "vocab_size_ci_high": k_high,
        "confident_low": confident[0],
        "confident_high": confident[1],
        "draft_length": gamma,
        "draft_length_ci_low": gamma_low,
        "draft_length_ci_high": gamma_high,
        "predicted_tokens_per_s": float(surface.tokens_per_s[row, column]),
        "predicted_ci_low": float(surface.ci_low[row, column]),
        "predicted_ci_high": float(surface.ci_high[row, column]),
        "decoded_vocab_size": decoded[0],
        "decoded_draft_length": decoded[1],
        "tokens_per_s": measured[decoded],
        "plain_tokens_per_s": measured[plain],
        "full_tokens_per_s": measured[full],
        **_estimate("speedup_vs_plain", speedup(run, domain, decoded, plain)),
        **_estimate("speedup_vs_full", speedup(run, domain, decoded, full)),
        "energy_j_per_token": energy.j_per_token,
        "plain_energy_j_per_token": plain_energy.j_per_token,
        "tokens_per_joule": energy.tokens_per_joule,
        "energy_reason": energy.reason,
    }


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    value, low, high = (None,) * 3 if estimate is None else vars(estimate).values()
    return {name: value, f"{name}_ci_low": low, f"{name}_ci_high": high}


def speed_frame(comparison: Comparison) -> pd.DataFrame:
    """Predicted speedup over plain decoding at every probed size and the best one, with `SPEED_COLUMNS`.

    At every size with its own fastest draft length. The interval is that of the prediction alone: plain
    decoding, which it is divided by, is taken as measured.
    """
    frames = []
    for entry in comparison.entries:
        probed = entry.surfaces.latency[entry.domain].sizes.tolist()
        curve = speed_curve(entry)
        frames.append(curve[curve["vocab_size"].isin([*probed, entry.surface.best[0]])])
    return pd.concat(frames, ignore_index=True)


def speed_curve(entry: Entry) -> pd.DataFrame:
    """As `speed_frame`, of one entry, at every size where its acceptance changes."""
    surface = entry.surface
    plain = measured_tokens_per_s(entry.run, entry.domain)[entry.run.full_size, 0]
    rows, columns = surface.tokens_per_s.argmax(axis=0), np.arange(len(surface.sizes))
    values = (
        entry.case, entry.domain, entry.device, surface.sizes, np.array(surface.draft_lengths)[rows],
        surface.tokens_per_s[rows, columns], surface.tokens_per_s[rows, columns] / plain,
        surface.ci_low[rows, columns] / plain, surface.ci_high[rows, columns] / plain,
    )  # fmt: skip
    return pd.DataFrame(dict(zip(SPEED_COLUMNS, values, strict=True)))


def step_frame(comparison: Comparison) -> pd.DataFrame:
    """Median chained draft step inside real rounds by case, device and size, with `STEP_COLUMNS`.

    Domains are pooled, as a step does not depend on its text. The bandwidth is None where neither the run nor
    a data sheet has it, and the bytes that a step moves where the shape of the draft is not known.
    """
    rows = []
    for case in comparison.cases:
        for device, runs in sorted(comparison.runs_of(case).items()):
            spec, series = hardware_of(runs[0]), step_series(runs)
            rates = (None, None) if spec is None else (spec.memory_bytes_per_s, spec.source)
            moved = (
                dict(zip(series.work.sizes.tolist(), series.work.total_bytes.tolist(), strict=True))
                if isinstance(series, LatencySeries)
                else {}
            )
            counts = {size: len(samples) for size, samples in step_times(runs).items()}
            for size, estimate in step_medians(runs).items():
                interval = vars(estimate).values()
                rows.append((case, device, size, *interval, counts[size], moved.get(size), *rates))
    frame = pd.DataFrame(rows, columns=STEP_COLUMNS)
    return frame.astype({"moved_bytes": float, "memory_bytes_per_s": float})


def rank_by_speed(best: pd.DataFrame) -> pd.DataFrame:
    """Devices of each case and domain by measured tokens per second, fastest first; `RANK_COLUMNS`."""
    return _ranked(best, "tokens_per_s")


def rank_by_energy(best: pd.DataFrame) -> pd.DataFrame:
    """Devices of each case and domain by tokens per joule, most first; `RANK_COLUMNS`.

    Devices without a measured energy come last, without a place and with the reason as a note.
    """
    return _ranked(best, "tokens_per_joule")


def _ranked(best: pd.DataFrame, by: str) -> pd.DataFrame:
    ordered = best.assign(**{by: best[by].astype(float)})
    ordered = ordered.sort_values(
        ["case", "domain", by, "device"], ascending=[True, True, False, True], na_position="last"
    )
    place = ordered.groupby(["case", "domain"])[by].rank(ascending=False, method="min").astype("Int64")
    slower_than_plain = ordered["speedup_vs_plain_ci_high"] < 1
    note = ordered["energy_reason"].where(ordered[by].isna(), "")
    frame = ordered.assign(
        place=place,
        vocab_size=ordered["decoded_vocab_size"],
        draft_length=ordered["decoded_draft_length"],
        note=note.mask(slower_than_plain, "slower than plain decoding"),
    )
    return frame[RANK_COLUMNS].reset_index(drop=True)
