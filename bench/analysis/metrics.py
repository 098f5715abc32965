"""Every quantity that a reader sees, once: its heading with the unit, its digits, and what it can be.

Tables, sentences and the console take headings and formats from here; a value that cannot be is a doubt.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

Form = str | Callable[[float], str]


class Interval(Protocol):
    """A value with its interval, as `bench.stats.estimates.Estimate`."""

    @property
    def value(self) -> float:
        """The estimate."""

    @property
    def ci_low(self) -> float:
        """Lower end."""

    @property
    def ci_high(self) -> float:
        """Upper end."""


@dataclass(frozen=True)
class Metric:
    """How readers see one quantity.

    Attributes:
        heading: of its column, with the unit.
        form: format of a value; empty for texts.
        unit: what follows a value in a sentence.
        short: heading on the console, which has 80 columns; None leaves the column out there.
        ends: columns of its interval; None where they are `<name>_ci_low` and `<name>_ci_high`.
        least: the smallest value that can be.
        most: the largest value that can be.
    """

    heading: str
    form: Form = ""
    unit: str = ""
    short: str | None = None
    ends: tuple[str, str] | None = None
    least: float = -math.inf
    most: float = math.inf


def significant(value: float) -> str:
    """Three significant digits, as latencies and energies of all sizes need; whole numbers from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def _size(heading: str, short: str | None = None) -> Metric:
    return Metric(heading, ",.0f", "", short, None, 0)


def _latency(heading: str, short: str | None = None, ends: tuple[str, str] | None = None) -> Metric:
    return Metric(heading, significant, " ms", short, ends, 0)


def _share(heading: str, short: str | None = None, form: str = ".1%") -> Metric:
    return Metric(heading, form, "", short, None, 0, 1)


def _speedup(heading: str, short: str | None = None) -> Metric:
    return Metric(heading, ".2f", "x", short, None, 0)


def _error(heading: str, short: str | None = None) -> Metric:
    return Metric(heading, ".1%", "", short, None, 0)


_LENGTH = Metric("gamma", ".0f", "", "len", None, 0)
_SPEED = Metric("tokens/s", ",.1f", " tokens/s", "tok/s", None, 0)
_ENERGY = Metric("J/token", significant, " J", None, None, 0)

METRICS: Mapping[str, Metric] = {
    # What it is of.
    "role": Metric("what", short="what"),
    "domain": Metric("domain", short="domain"),
    "device": Metric("device", short="device"),
    "case": Metric("pair and dtype"),
    "source": Metric("vocabulary chosen on"),
    "model": Metric("model", short="model"),
    "note": Metric("note", short=""),
    "place": Metric("place", ".0f", short="#"),
    "num_prompts": _size("prompts"),
    "vocab_size": Metric("k", ",.0f", "", "k", None, 0),
    "draft_length": _LENGTH,
    "num_tokens": _size("tokens verified"),
    # Acceptance and speed.
    "coverage_heldout": _share("held-out coverage", "cover"),
    "coverage_ranking": _share("coverage of ranking answers"),
    "acceptance_rate": Metric("acceptance rate", ".3f", "", None, None, 0, 1),
    "mean_acceptance_length": Metric("mean acceptance length", ".2f", " tokens", "tau", None, 1),
    "full_mean_acceptance_length": Metric("the same with the full vocabulary", ".2f", "", None, None, 1),
    "tokens_per_s": _SPEED,
    "predicted_tokens_per_s": Metric(
        "predicted tokens/s", ",.1f", " tokens/s", "pred.", ("predicted_ci_low", "predicted_ci_high"), 0
    ),
    "prediction_error": Metric("prediction error", "+.1%", "", None, None, -1),
    "speedup_vs_full_vocab": _speedup("x full vocabulary", "x full"),
    "speedup_vs_autoregressive": _speedup("x plain", "x plain"),
    "speedup_vs_full": _speedup("x full vocabulary"),
    "speedup_vs_full_best": _speedup("x full vocabulary with its best gamma", "x full best"),
    "speedup_vs_plain": _speedup("x plain", "x plain"),
    "predicted_speedup_vs_full_vocab": _speedup("predicted x full vocabulary"),
    "identical_output_frac": _share("identical outputs", "same", ".0%"),
    "concurrency": Metric("at a time", ",.0f", "", "c", None, 1),
    "num_processes": _size("processes"),
    "own_speedup_vs_full_vocab": _speedup("x full in our loop", "ours"),
    "replayed_mean_acceptance_length": Metric("the same in the replay", ".2f", " tokens", "replay", None, 1),
    "acceptance_difference": Metric("apart by", "+.1%"),
    "acceptance_agrees": Metric("agrees", short="agrees"),
    "accepted_by_position": Metric("accepted by position"),
    "replayed_by_position": Metric("the same in the replay"),
    "energy_j_per_token": _ENERGY,
    "plain_energy_j_per_token": _ENERGY,
    "plain_tokens_per_s": _SPEED,
    "full_tokens_per_s": _SPEED,
    "tokens_per_joule": Metric("tokens/J", significant, " tokens/J", "tok/J", None, 0),
    "in_confidence_set": Metric("may be as good"),
    # Latency.
    "draft_step_ms": _latency("draft step ms", "step", ("draft_step_ci_low_ms", "draft_step_ci_high_ms")),
    "lm_head_ms": _latency("LM head ms", "head"),
    "layer_ms": _latency("layers ms", "layers"),
    "select_ms": _latency("selection ms", "select"),
    "draft_step_warm_ms": _latency("step ms, warm", "warm"),
    "verify_ms": _latency("verify ms"),
    "measured_ms": _latency("ms", None, ("measured_ci_low", "measured_ci_high")),
    "inter_token_p50_ms": _latency("between arrivals ms, median"),
    "inter_token_p90_ms": _latency("90th percentile"),
    "inter_token_p99_ms": _latency("99th percentile"),
    "first_token_p50_ms": _latency("first token ms, median"),
    "first_token_p90_ms": _latency("first token, 90th percentile"),
    "first_token_p99_ms": _latency("first token, 99th percentile"),
    "inter_token_of": Metric("between"),
    "tool": Metric("tool", short="tool"),
    "draft": Metric("draft"),
    "num_requests": _size("requests"),
    "num_failed": _size("failed"),
    "file": Metric("file"),
    "part_verify_ms": _latency("target's pass"),
    "part_choose_ms": _latency("accepting"),
    "part_layers_ms": _latency("draft's layers"),
    "part_head_ms": _latency("draft's LM head"),
    "part_scatter_ms": Metric("k logits into V", significant, " ms"),
    "part_select_ms": _latency("draft's choice"),
    "part_prepare_ms": Metric("rest of the step", significant, " ms"),
    "part_rest_ms": Metric("between steps", significant, " ms"),
    "plain_step_ms": _latency("plain step ms"),
    "full_round_ms": _latency("round ms, full"),
    "trimmed_round_ms": _latency("round ms, trimmed"),
    "saved_ms": Metric("saved ms", significant, " ms"),
    "saved_share": Metric("saved", ".1%"),
    "lm_head_share": _share("head share", "head share", ".0%"),
    "saving": Metric("saving R", ".1%", "", "saving R", None, -math.inf, 1),
    # Latency models.
    "held_out_error": _error("held-out error", "held-out error"),
    "fit_error": _error("fit error", "fit error"),
    "worst_error": _error("worst error"),
    "mean_error": _error("mean error"),
    "r2": Metric("R2", ".3f", "", "R2", None, -math.inf, 1),
    "coefficients": Metric("coefficients"),
    "predicted_saving": Metric("predicted saving", ".1%"),
    "measured_saving": Metric("measured saving", ".1%"),
    "reduction": Metric("R measured", ".3f", "", None, None, -math.inf, 1),
    "reduction_flops_published": Metric("R by FLOPs", ".3f"),
    "reduction_best": Metric("R by the best model", ".3f"),
    "bandwidth_share": Metric("of the bandwidth", ".0%", "", None, None, 0),
    "peak_share": Metric("of the peak", ".0%", "", None, None, 0),
    "launch_share": Metric("fixed share (t0)", ".0%", "", None, None, 0),
    "chosen_k": _size("chosen k", "chosen k"),
    "best_k": _size("best k"),
    "best_tokens_per_s": Metric("best tokens/s", ",.1f", " tokens/s", None, None, 0),
    "regret_tokens_per_s": Metric("lost tokens/s", ".2f", " tokens/s", "lost tok/s", None, 0),
    "regret_share": Metric("lost", ".1%", "", None, None, 0, 1),
    "chosen_k_by_utility": _size("chosen k by utility"),
    "regret_utility": Metric("lost utility", ".3g"),
    "best_model": Metric("best model"),
    "flops_predicted_saving": Metric("saving by FLOPs", ".1%"),
    "flops_held_out_error": _error("error of FLOPs"),
    "flops_largest_regret_share": Metric("lost by FLOPs", ".1%", "", None, None, 0, 1),
    "flops_regret_domain": Metric("on"),
    "measured": Metric("measured", ".1%", "", None, ("ci_low", "ci_high"), -math.inf, 1),
    # A vocabulary chosen from text alone.
    "flops_reduction": Metric("R(k)", ".4f", "", "R(k)", None, -math.inf, 1),
    "utility": Metric("U(k)", ".4f", "", "U(k)"),
    "script": Metric("script", short="script"),
    "language": Metric("language", short="language"),
    "num_tokens_heldout": _size("held-out tokens", "tokens"),
    "share_heldout": _share("share of them", "share"),
    "num_tokens_ranking": _size("ranking tokens"),
    "share_ranking": _share("share of ranking tokens"),
    "tpe_vocab_size": _size("TPE k", "TPE k"),
    "tpe_regret": Metric("regret", ".2g", "", "regret", None, 0),
    # Published kernels of GPUs.
    "gpu": Metric("GPU", short="GPU"),
    "schedule": Metric("draft lengths by batch"),
    "largest_loss": Metric("largest loss", ".1%", "", None, None, 0, 1),
    "constant_draft_length": Metric("best constant gamma", ".0f", "", None, None, 0),
    "constant_largest_loss": Metric("its largest loss", ".1%", "", None, None, 0, 1),
    "engine": Metric("engine", short=""),
    "engine_version": Metric("engine"),
    "version": Metric("version"),
    "dtype": Metric("dtype", short="dtype"),
    "batch": Metric("batch", ",.0f", "", None, None, 0),
    "context": Metric("positions", ",.0f", "", None, None, 0),
    "host_speedup_vs_full_vocab": _speedup("x full, with host", "host"),
    "full_draft_step_ms": _latency("whole-head step ms"),
    "flops_vocab_size": _size("k by FLOPs", "k, FLOPs"),
    "flops_loss": Metric("lost by FLOPs", ".1%", "", None, None, 0, 1),
    "basis": Metric("basis"),
    "row_error": _error("error, row left out"),
    "size_error": _error("error, size left out"),
    "beyond_error": _error("error beyond"),
    "warm_share": _share("warm rows"),
    "contradicting_share": _share("contradicting rows"),
    "largest_rate_over_memory": Metric("largest rate over memory's", ".2f", "x", None, None, 0),
    "num_rows": _size("rows"),
    "hidden_size": _size("hidden size"),
    "rows": _size("rows of the head"),
    "by_flops": Metric("saving by FLOPs", ".1%", "", None, None, -math.inf, 1),
    "tabulated": Metric("tabulated", ".1%", "", None, None, -math.inf, 1),
    "fitted": Metric("fitted", ".1%", "", None, None, -math.inf, 1),
    "difference": _error("apart by"),
    "median_absolute_error": _error("median error"),
    "worst_absolute_error": _error("worst error"),
    "median_absolute_error_fp8_keys": _error("median error, keys in 8 bits"),
    "num_decode_rows": _size("decode rows"),
    "decode_median_absolute_error": _error("median error, decode rows"),
    "step_median_error": Metric("decode step alone", "+.1%"),
    "between_share": _share("between step and all prefill", None, ".0%"),
    "round_ms": _latency("round ms"),
    "kernels_ms": _latency("kernels ms"),
    "beyond_ms": Metric("beyond kernels ms", significant),
    # Two runs of the same work.
    "name": Metric("what", short="what"),
    "ratio": Metric("after / before", ".3f", "x", "ratio", ("ci_low", "ci_high"), 0),
    "verdict": Metric("verdict", short="verdict"),
}

# What the roles of a plan are called; records keep their own strings.
ROLE_NAMES: Mapping[str, str] = {
    "plain": "plain",
    "full": "full",
    "full_best": "full best",
    "optimum": "optimum",
    "paper": "paper",
    "lossless": "same passes",
    "extra": "check",
}

ROLE_LEGEND = (
    "plain: decoding without a draft. full: the whole vocabulary at the advised draft length. full best: "
    "at its own, where that is significantly faster for it. optimum: what is advised. paper: k* of the "
    "paper's utility. same passes: the smallest k that needs no more target passes than the full vocabulary. "
    "check: decodes elsewhere."
)


def format_roles(roles: str) -> str:
    """Roles of one decode, joined by "+" in records, as readers see them."""
    return ", ".join(ROLE_NAMES.get(role, role) for role in roles.split("+"))


def format_variant(vocab_size: int, draft_length: int) -> str:
    """One way to draft, as in "k = 1,627, gamma = 5"."""
    return f"k = {vocab_size:,}, gamma = {draft_length}"


def is_missing(value: object) -> bool:
    """Whether there is no value."""
    return value is None or (not isinstance(value, str) and bool(pd.isna(value)))  # type: ignore[call-overload]


def format_value(name: str, value: Any, with_unit: bool = False) -> str:
    """A value of the metric `name`; empty where there is none.

    What is not in the registry has four digits.
    """
    if is_missing(value):
        return ""
    if name == "role":
        return format_roles(value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    metric = METRICS.get(name)
    if metric is None or not metric.form:
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    text = metric.form(value) if callable(metric.form) else format(value, metric.form)
    return text + metric.unit if with_unit else text


def format_interval(name: str, value: Any, low: Any, high: Any, with_unit: bool = False) -> str:
    """A value with its interval, as in "1.22x [1.13, 1.33]"; empty where there is no value.

    An interval that is not known, or has no end as that of a single prompt, is not shown; one end that is
    missing is a question mark.
    """
    if is_missing(value):
        return ""
    ends = [None if is_missing(end) else float(end) for end in (low, high)]
    if ends == [None, None] or any(end is not None and math.isinf(end) for end in ends):
        return f"{format_value(name, value, with_unit)} (no interval)"
    shown = ", ".join("?" if end is None else format_value(name, end) for end in ends)
    return f"{format_value(name, value, with_unit)} [{shown}]"


def format_estimate(name: str, estimate: Interval | None) -> str:
    """A value with its interval and unit, for sentences; empty where there is none."""
    if estimate is None:
        return ""
    return format_interval(name, estimate.value, estimate.ci_low, estimate.ci_high, with_unit=True)


def estimate_columns(name: str, estimate: Interval | None) -> dict[str, float | None]:
    """A value and its interval as columns of a table; None where there is none."""
    ends = (f"{name}_ci_low", f"{name}_ci_high")
    if estimate is None:
        return dict.fromkeys((name, *ends))
    return {name: estimate.value, ends[0]: estimate.ci_low, ends[1]: estimate.ci_high}


def known_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the intervals that have no end: both ends are then missing."""
    ends = [(name, name.replace("ci_low", "ci_high")) for name in map(str, table) if "ci_low" in name]
    values: dict[str, pd.Series] = {}
    for pair in ends:
        if set(pair) <= set(table):
            known = np.isfinite(table[list(pair)].to_numpy(dtype=float)).all(axis=1)
            values |= {name: table[name].where(known) for name in pair}
    return table.assign(**values)


def interval_columns(name: str) -> tuple[str, str]:
    """Columns that hold the interval of a metric."""
    metric = METRICS.get(name)
    return metric.ends if metric and metric.ends else (f"{name}_ci_low", f"{name}_ci_high")


def impossible_values(table: pd.DataFrame) -> list[str]:
    """What a table says that cannot be, such as a share above 1; in words."""
    found = []
    for name, metric in METRICS.items():
        if name not in table or not metric.form:
            continue
        values = pd.to_numeric(table[name]).dropna()
        # Rounding of a share of all may end a hair above 1.
        slack = 1e-9 * max(1.0, abs(metric.least) if math.isfinite(metric.least) else 1.0)
        wrong = values[~((values >= metric.least - slack) & (values <= metric.most + slack))]
        if len(wrong):
            found.append(f"{name} is {wrong.iloc[0]:.6g} in row {wrong.index[0]}")
    return found
