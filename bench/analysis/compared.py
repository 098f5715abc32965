"""Tables of a comparison: what is best on every device, what a size costs there, and who is first."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.comparison import Comparison, Entry
from bench.analysis.fit import goals_of, series_of, times_of
from bench.analysis.hardware import hardware_of
from bench.analysis.parallel import in_parallel
from bench.analysis.run import Run, speedup
from bench.analysis.summary import energy_of
from bench.analysis.surfaces import baseline_keys, measured_tokens_per_s
from bench.cost.hardware import HardwareSpec
from bench.errors import FitError
from bench.fit.fitting import median_estimates, resample_medians
from bench.fit.judge import JudgedComponent, JudgedModel, judge
from bench.fit.models import Published
from bench.fit.series import DRAFT_STEP, LatencySeries
from bench.stats.estimates import Estimate, median

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


# What a comparison says, in words: who is first, what to use where, and what cannot be compared.


def verdicts(best: pd.DataFrame) -> list[str]:
    """One sentence per case and domain: the best size of every device, and the fastest of them.

    Args:
        best: of `bench.compare.frames.best_frame`.
    """
    several = best["case"].nunique() > 1
    found = []
    for (case, domain), rows in best.groupby(["case", "domain"], sort=True):
        where = f"{domain} ({case})" if several else domain
        found.append(f"{where}:{_fastest(rows)} Predicted fastest: {_sizes(rows)}.{_frugal(rows)}")
    return found


def _sizes(rows: pd.DataFrame) -> str:
    """Best (k, gamma) and the devices that have it."""
    devices: dict[str, list[str]] = {}
    for _, row in rows.iterrows():
        interval = f"[{row['vocab_size_ci_low']:,}, {row['vocab_size_ci_high']:,}]"
        text = f"k = {row['vocab_size']:,} {interval}, gamma = {row['draft_length']}"
        devices.setdefault(text, []).append(row["device"])
    return "; ".join(f"{text} on {', '.join(names)}" for text, names in devices.items())


def _fastest(rows: pd.DataFrame) -> str:
    if len(rows) < 2:
        return ""
    ordered = rows.sort_values("tokens_per_s", ascending=False)
    first, second = ordered.iloc[0], ordered.iloc[1]
    return (
        f" {first['device']} is fastest as decoded, with {first['tokens_per_s']:,.1f} tokens/s, "
        f"{first['tokens_per_s'] / second['tokens_per_s']:.2f}x as fast as {second['device']}."
    )


def _frugal(rows: pd.DataFrame) -> str:
    known = rows[rows["tokens_per_joule"].notna()]
    if known.empty:
        reasons = ", ".join(sorted(set(rows["energy_reason"])))
        return f" Energy per token: {reasons}."
    first = known.sort_values("tokens_per_joule", ascending=False).iloc[0]
    return f" Most tokens per joule: {first['device']}, {first['tokens_per_joule']:.3g}."


def transfers(transferred: pd.DataFrame) -> list[str]:
    """How well latency models moved to other devices, by case, and why others could not be."""
    found = []
    for case, rows in transferred[transferred["mean_error"].notna()].groupby("case", sort=True):
        worst = rows.sort_values("mean_error").iloc[-1]
        found.append(
            f"{case}: a device's latency model, moved by the data sheets, predicts the draft step of another "
            f"with a mean error of {rows['mean_error'].median():.1%} (median of {len(rows)} ordered pairs of "
            f"devices), at worst {worst['mean_error']:.1%}, from {worst['source']} to {worst['target']}."
        )
    reasons = sorted(set(transferred.loc[transferred["mean_error"].isna(), "reason"]))
    return found + ([f"Not every latency model could be moved: {'; '.join(reasons)}."] if reasons else [])


# The latency model of one device on another: fitted where it was measured, moved by the data sheets.

TRANSFER_COLUMNS = ["case", "source", "target", "model", "mean_error", "worst_error", "reason"]

# Only the coefficients themselves are moved, not their intervals.
_RESAMPLES = 20


def step_times(runs: Sequence[Run]) -> dict[int, list[float]]:
    """Samples of a chained draft step inside real rounds, by k, over all domains; empty at gamma = 1."""
    return times_of(runs, DRAFT_STEP)


def step_medians(runs: Sequence[Run]) -> dict[int, Estimate]:
    """Median of `step_times` by k, with an interval over whole prompts, as steps of one are not independent.

    Steps of runs that do not say the shape of their draft are taken as independent.
    """
    series, run = step_series(runs), runs[0]
    if isinstance(series, str):
        return {size: median(np.array(samples)) for size, samples in step_times(runs).items()}
    estimates = median_estimates(series, resample_medians(series, run.num_resamples, run.seed))
    return dict(zip(series.work.sizes.tolist(), estimates, strict=True))


def step_series(runs: Sequence[Run]) -> LatencySeries | str:
    """Chained draft steps of one device with the work of every size; a reason where there is none.

    Args:
        runs: of one case on one device.
    """
    try:
        found = {series.component: series for series in series_of(runs)}
    except FitError:
        return "the run does not say the shape of its draft"
    reason = "no chained draft step was measured: measure a draft length of 2 or more"
    return found.get(DRAFT_STEP, reason)


def transfer_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per case and ordered pair of devices, with `TRANSFER_COLUMNS`.

    The model is the one that predicts held-out sizes of the source best and can be moved. Errors are those
    of the target's draft step, predicted over measured less 1, as absolute values over its sizes; they are
    None with a reason where no model can be moved.
    """
    rows = []
    for case in comparison.cases:
        by_device = comparison.runs_of(case)
        series = {device: step_series(runs) for device, runs in by_device.items()}
        specs = {device: hardware_of(runs[0]) for device, runs in by_device.items()}
        models = {
            device: _models(found, specs[device], by_device[device][0])
            for device, found in series.items()
            if isinstance(found, LatencySeries)
        }
        for source in sorted(by_device):
            for target in sorted(by_device):
                if source != target:
                    dtype = by_device[source][0].environment["dtype"]
                    row = _moved(series, specs, models.get(source, []), source, target, dtype)
                    rows.append((case, source, target, *row))
    return pd.DataFrame(rows, columns=TRANSFER_COLUMNS).astype({"mean_error": float, "worst_error": float})


def _moved(
    series: dict[str, LatencySeries | str],
    specs: dict[str, HardwareSpec | None],
    models: list[JudgedModel],
    source: str,
    target: str,
    dtype: str,
) -> tuple[str | None, float | None, float | None, str]:
    for device in (source, target):
        found = series[device]
        if isinstance(found, str):
            return None, None, None, f"on {device} {found}"
        if specs[device] is None:
            return None, None, None, f"{device} has no data sheet, and its run did not probe its rates"
    from_spec, to_spec, measured = specs[source], specs[target], series[target]
    assert from_spec is not None and to_spec is not None and isinstance(measured, LatencySeries)
    reason = f"on {source} too few sizes were measured to judge a model"
    for judged in models:
        try:
            error = judged.fitted.moved_to(to_spec.limits(dtype)).error_on(measured)
        except FitError as refused:
            reason = str(refused)
            continue
        return judged.fitted.model.label, error.mape, error.worst_error, ""
    return None, None, None, reason


def _models(series: LatencySeries, spec: HardwareSpec | None, run: Run) -> list[JudgedModel]:
    """Those that explain something, the best on held-out sizes first."""
    judged = judge(series, spec, run.environment["dtype"], num_resamples=_RESAMPLES, seed=run.seed)
    explaining = [model for model in judged.models if not model.fitted.model.is_yardstick]

    def rank(model: JudgedModel) -> tuple[bool, float]:
        error = model.scores.loo_mape
        return model.fitted.model.name != judged.best, float("inf") if error is None else error

    return sorted(explaining, key=rank)


# Would FLOPs have picked the vocabulary on every device, and which latency model holds there?

MODEL_COLUMNS = [
    "case", "device", "best_model", "held_out_error", "flops_held_out_error", "smallest_k", "measured_saving",
    "flops_predicted_saving", "flops_largest_regret_share", "flops_regret_domain", "bandwidth_share",
    "launch_share", "note",
]  # fmt: skip


def model_frame(comparison: Comparison) -> pd.DataFrame:
    """One row per case and device: of its chained draft step, with `MODEL_COLUMNS`.

    Savings are those of the smallest measured size, regrets the largest over the domains, shares of the
    hardware's limits those of the full vocabulary. None with a note where nothing can be judged.
    """
    places = [(case, device) for case in comparison.cases for device in comparison.devices_of(case)]
    rows = in_parallel([partial(_row, comparison, case, device) for case, device in places])
    found = [
        {"case": case, "device": device, **row} for (case, device), row in zip(places, rows, strict=True)
    ]
    return pd.DataFrame(found, columns=MODEL_COLUMNS).astype(object).replace({np.nan: None})


def _row(comparison: Comparison, case: str, device: str) -> dict[str, object]:
    runs = comparison.runs_of(case)[device]
    series = step_series(runs)
    if isinstance(series, str):
        return {"note": series}
    entries = [entry for entry in comparison.entries if (entry.case, entry.device) == (case, device)]
    goals = {entry.domain: goals_of(entry.surfaces, series)[entry.domain] for entry in entries}
    judged = judge(
        series, hardware_of(runs[0]), runs[0].environment["dtype"], goals, _RESAMPLES, runs[0].seed
    )
    return {**_of_best(judged), **_of_flops(judged, series), "note": judged.doubt}


def _of_best(judged: JudgedComponent) -> dict[str, object]:
    best, efficiency = judged.model(judged.best), judged.efficiency
    return {
        "best_model": None if best is None else best.fitted.model.label,
        "held_out_error": None if best is None else best.scores.loo_mape,
        "bandwidth_share": None if efficiency.bandwidth_share is None else efficiency.bandwidth_share[-1],
        "launch_share": None if efficiency.launch_share is None else efficiency.launch_share[-1],
    }


def _of_flops(judged: JudgedComponent, series: LatencySeries) -> dict[str, object]:
    flops = judged.model(Published.name)
    if flops is None:
        return {}
    regrets = {domain: found.speed.regret_share for domain, found in flops.decisions.items()}
    worst = max(regrets, key=regrets.__getitem__) if regrets else None
    return {
        "flops_held_out_error": flops.scores.loo_mape,
        "smallest_k": int(series.work.sizes[0]),
        "measured_saving": judged.reductions[0].value,
        "flops_predicted_saving": float(flops.reduction[0]),
        "flops_largest_regret_share": None if worst is None else regrets[worst],
        "flops_regret_domain": worst,
    }
