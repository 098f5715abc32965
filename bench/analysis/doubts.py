"""What makes a run's figures doubtful, in plain words with the remedy; from its records and samples alone."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis.figures import (
    ALL,
    ENERGY,
    ISOLATED,
    OF_THE_MACHINE,
    OVER_FULL,
    OVER_FULL_BEST,
    OVER_PLAIN,
    PREDICTION,
    SPEED,
)
from bench.analysis.latency import drift_of, step_samples
from bench.analysis.launches import launch_ratio
from bench.analysis.run import EAGER, Run
from bench.analysis.telemetry import impossible_readings, token_energy
from bench.config import LimitsConfig
from bench.records import DecodeRecord, ProbeRecord
from bench.stats.estimates import median
from bench.telemetry.samples import RUN_ENDED, RUN_KILLED
from bench.telemetry.windows import STUCK_POWER, is_power_stuck

FILE_NAME = "doubts.json"

# Limits beyond which a run is in doubt: far above what a quiet machine shows, and small enough to matter.
_MOST_REPEATED = 0.05  # share of measurements that were disturbed and repeated

_MOST_DRIFT = 0.05  # change of the same work from one half of the run to the other


@dataclass(frozen=True)
class Doubt:
    """A reason not to trust a figure.

    Attributes:
        code: short and stable, for programs.
        what: what was seen.
        remedy: what to do.
        touches: names of the figures that it makes doubtful (`bench.analysis.figures`).
    """

    code: str
    what: str
    remedy: str
    touches: tuple[str, ...]

    @property
    def text(self) -> str:
        """Both as sentences."""
        return " ".join(f"{part[:1].upper()}{part[1:]}." for part in (self.what, self.remedy))


def doubts(run: Run) -> list[Doubt]:
    """Everything that is doubtful about a run; a new doubt is a function, named in `_CHECKS`."""
    return [doubt for check in _CHECKS for doubt in check(run)]


def write_doubts(found: Sequence[Doubt], folder: Path) -> None:
    """`doubts.json`: a list of objects with `code`, `what`, `remedy` and `touches`; empty without a doubt."""
    content = [asdict(doubt) for doubt in found]
    (folder / FILE_NAME).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _unfinished(run: Run) -> Iterator[Doubt]:
    if run.has_ended:
        return
    asked = int(run.config["measure"].get("repeats") or 1)
    there = ", ".join(
        f"{domain}: {len(prompts)} {'prompt' if len(prompts) == 1 else 'prompts'}"
        + (f" in {run.num_processes(domain)} of {asked} processes" if asked > 1 else "")
        for domain, prompts in run.prompts.items()
    )
    yield Doubt(
        "unfinished",
        f"the run has not measured everything that it was asked for (what is shown: {there})",
        "give the same command again, which resumes the run",
        ALL,
    )


def _one_prompt(run: Run) -> Iterator[Doubt]:
    alone = [name for name in run.prompts if run.num_probed(name) == 1 and run.num_processes(name) < 2]
    if alone:
        yield Doubt(
            "one_prompt",
            f"of {' and '.join(alone)} one prompt was measured, which shows no spread: nothing that is "
            "computed over prompts has an interval there",
            "measure more (measure.num_prompts)",
            (SPEED, OVER_FULL, OVER_FULL_BEST, OVER_PLAIN),
        )


def _disturbed(run: Run) -> Iterator[Doubt]:
    numbers = [record.num_repeats for domain in run.decodes for record in records_of(run, domain)]
    share = float(np.mean([number > 0 for number in numbers])) if numbers else 0.0
    if share <= _MOST_REPEATED:
        return
    yield Doubt(
        "held_up",
        f"{share:.0%} of the measurements were disturbed by other work on the machine and repeated",
        "let nothing run beside a measurement",
        ALL,
    )


def _drift(run: Run) -> Iterator[Doubt]:
    drift = drift_of(run)
    if abs(drift.change) <= _MOST_DRIFT:
        return
    yield Doubt(
        "drift",
        drift.phrase(".0%"),
        "warm the machine up, keep its clocks fixed, and measure again; ratios of what was interleaved hold "
        "better than absolute figures",
        OF_THE_MACHINE,
    )


# Doubts that the samples beside a run raise: clocks, throttling, other processes, and missing samples.

_MOST_OTHERS = 0.05  # load of other processes, as a share of all CPUs

_MOST_CLOCK_SPREAD = 0.03  # of the GPU's SM clock while it is measured

_MOST_CPU_CLOCK_SPREAD = 0.05  # of the fastest CPU's clock while it is measured

_MOST_ENERGY_SPREAD = 0.1  # of energy per token between two windows of the same variant

_LEAST_CLOCKS = 10  # readings, for a spread

SLOWED = {
    "power_cap": "its power limit",
    "hw_slowdown": "a hardware slowdown",
    "sw_thermal": "its temperature",
    "hw_thermal": "its temperature",
    "power_brake": "an external power brake",
}

# Settings of a GPU that a run may not change between two of its sessions, and what a user calls them.
_SETTINGS = {
    "power_limit_w": "power limit",
    "application_sm_clock_mhz": "application clock",
    "ecc": "ECC",
    "mig": "MIG",
    "vbios": "VBIOS",
}


def _others(run: Run) -> Iterator[Doubt]:
    # Another engine's processes are others too, but nothing of our loop is measured beside them.
    records = [record for domain in run.decodes for record in records_of(run, domain)]
    rows = while_measured(run, records) if run.served else run.samples.rows
    loads = [row["cpu_load_of_others"] for row in rows if row.get("cpu_load_of_others") is not None]
    if not loads or float(np.median(loads)) <= _MOST_OTHERS:
        return
    yield Doubt(
        "other_load",
        f"other processes took {float(np.median(loads)):.0%} of the CPUs (median over the run)",
        "end them, or measure on a machine of its own",
        ALL,
    )


def _clock(run: Run) -> Iterator[Doubt]:
    spread = _spread(run, "sm_clock_mhz")
    if spread is None or (spread[1] - spread[0]) / spread[1] <= _MOST_CLOCK_SPREAD:
        return
    low, high = spread
    yield Doubt(
        "moving_clock",
        f"the GPU's clock moved between {low:.0f} and {high:.0f} MHz while it was measured",
        f"fix it: nvidia-smi --lock-gpu-clocks={low:.0f} (as root), and --reset-gpu-clocks afterwards",
        OF_THE_MACHINE,
    )


def _cpu_clock(run: Run) -> Iterator[Doubt]:
    """Of a run on the CPU: its clock moved, or was free to move and not watched."""
    if run.environment.get("cuda"):
        return
    set_to = run.environment.get("cpu_frequency") or {}
    governor, turbo = set_to.get("governor"), set_to.get("turbo")
    steps = ["cpupower frequency-set --governor performance"] if governor not in (None, "performance") else []
    if turbo == "on":
        steps.append("echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo (Intel)")
        steps.append("echo 0 > /sys/devices/system/cpu/cpufreq/boost (others)")
    remedy = f"fix it, as root: {'; '.join(steps)}" if steps else "measure on a machine whose clock is fixed"
    spread = _spread(run, "cpu_clock_mhz")
    if spread is None:
        if governor in (None, "performance"):
            return
        text = f"the governor {governor} sets the CPU's clock, and nothing sampled that clock"
        yield Doubt("cpu_scaling", text, remedy, OF_THE_MACHINE)
        return
    low, high = spread
    if (high - low) / high <= _MOST_CPU_CLOCK_SPREAD:
        return
    text = f"the CPU's clock moved between {low:.0f} and {high:.0f} MHz while it was measured"
    settings = {"governor": governor, "turbo": turbo}
    known = ", ".join(f"{name} {value}" for name, value in settings.items() if value)
    yield Doubt("moving_cpu_clock", f"{text} ({known})" if known else text, remedy, OF_THE_MACHINE)


def _slowed(run: Run) -> Iterator[Doubt]:
    rows = [row["throttle_reasons"] for row in run.samples.rows if row.get("throttle_reasons") is not None]
    shares = {text: 0.0 for text in SLOWED.values()}
    for text in shares:
        names = {name for name, of in SLOWED.items() if of == text}
        shares[text] = float(np.mean([bool(names & set(reasons)) for reasons in rows])) if rows else 0.0
    for text, share in shares.items():
        if share > 0.01:
            yield Doubt(
                "throttled",
                f"{text} slowed the GPU down in {share:.0%} of the samples",
                "cool it, raise its power limit, or lower its clocks to what it can keep up",
                OF_THE_MACHINE,
            )


def _other_gpu_processes(run: Run) -> Iterator[Doubt]:
    found = sorted({pid for row in run.samples.rows for pid in row.get("other_pids") or []})
    if found:
        pids = ", ".join(map(str, found[:5]))
        text = f"{len(found)} other processes were on the GPU (pid {pids})"
        yield Doubt("shared_gpu", text, "end them, or choose another gpu=", ALL)


def _cut_off(run: Run) -> Iterator[Doubt]:
    after = "figures after that moment have no telemetry"
    for why in run.samples.lost:
        seen = f"the GPU could not be sampled any more: {why}"
        yield Doubt("telemetry_lost", seen, f"see the driver's log (dmesg); {after}", (ENERGY,))
    for why in run.samples.ended:
        if why not in (RUN_ENDED, RUN_KILLED):
            seen = f"sampling ended early: {why}"
            yield Doubt("telemetry_lost", seen, f"see the system's log; {after}", (ENERGY,))
    if lines := run.samples.unreadable:
        first = f"{', '.join(map(str, lines[:5]))}{' ...' if lines[5:] else ''}"
        yield Doubt(
            "unreadable_samples",
            f"{len(lines)} of the lines of telemetry.jsonl cannot be read and are left out (lines {first})",
            "a kill cuts one line, which costs one sample; if there are more, copy the run again",
            (ENERGY,),
        )


def _wrong_sensors(run: Run) -> Iterator[Doubt]:
    """Sensors that answered what cannot be, or never changed their answer."""
    if listed := impossible_readings(run):
        yield Doubt(
            "impossible_reading",
            f"sensors gave answers that cannot be, and these count as missing ({listed})",
            "update the driver, or do not use what these sensors say about this run",
            (ENERGY,),
        )
    if is_power_stuck(run.samples.rows):
        yield Doubt(
            "stuck_sensor",
            f"{STUCK_POWER}, so no energy is computed from it",
            "update the driver, or measure power outside of the machine",
            (ENERGY,),
        )


def _unsteady_energy(run: Run) -> Iterator[Doubt]:
    """The same work took another energy in its second window."""
    energies = [token_energy(run, domain, variant) for domain in run.steady for variant in run.steady[domain]]
    worst = max((energy.spread or 0.0 for energy in energies), default=0.0)
    if worst <= _MOST_ENERGY_SPREAD:
        return
    yield Doubt(
        "unsteady_energy",
        f"energy per token of the same variant differed by up to {worst:.0%} between its two windows",
        "raise telemetry.steady_s, and keep clocks and temperature steady",
        (ENERGY,),
    )


def _changed(run: Run) -> Iterator[Doubt]:
    """Of a run that was resumed after its GPU was set otherwise."""
    sessions = [*run.environment.get("earlier_telemetry", []), run.environment.get("telemetry")]
    gpus = [session["gpu"] for session in sessions if session and session.get("gpu")]
    for field, name in _SETTINGS.items():
        values = list(dict.fromkeys(str(gpu[field]) for gpu in gpus if gpu.get(field) is not None))
        if len(values) > 1:
            text = f"the GPU's {name} changed between the sessions of this run ({' -> '.join(values)})"
            yield Doubt("changed_gpu", text, "measure again from the start with resume=false", OF_THE_MACHINE)


def _spread(run: Run, field: str) -> tuple[float, float] | None:
    """The 5% and 95% quantiles of a field while something was measured; None where it was read too seldom."""
    measured = [record for domain in run.decodes for record in records_of(run, domain)]
    values = [row[field] for row in while_measured(run, measured) if row.get(field)]
    if len(values) < _LEAST_CLOCKS:
        return None
    low, high = np.quantile(values, [0.05, 0.95])
    return float(low), float(high)


def records_of(run: Run, domain: str) -> list[DecodeRecord | ProbeRecord]:
    """Every probe and decode of a domain."""
    return [*run.probes[domain], *run.checks.get(domain, []), *run.decodes_of(domain)]


def while_measured(run: Run, records: Sequence[DecodeRecord | ProbeRecord]) -> list[dict[str, Any]]:
    """Samples that were taken while one of these ran: a device that waits may do as it likes."""
    windows = sorted((r.start_s, r.end_s) for r in records if r.start_s is not None and r.end_s is not None)
    if not windows:
        return []
    starts, ends = np.array(windows).T
    rows = run.samples.rows
    times = np.array([row["time_s"] for row in rows])
    latest = np.searchsorted(starts, times, side="right") - 1
    is_inside = (latest >= 0) & (times <= np.maximum.accumulate(ends)[latest])
    return [row for row, inside in zip(rows, is_inside, strict=True) if inside]


def _column(run: Run, field: str) -> np.ndarray:
    return np.array([row[field] for row in run.samples.rows if row.get(field) is not None], dtype=float)


# Doubts about how a run timed: its clock, and its parts timed on their own.

_MOST_HALF_WIDTH = 0.05  # of the median of a part timed on its own

_MOST_MARKS = 0.05  # cost of the marks of a draft step, over the step

_MARKS_PER_STEP = 3  # layer, LM head and selection

_MOST_RESOLUTION = 0.1  # of the clock over the shortest LM head; many laps average a finer one out

_MOST_TREND = 0.1  # change of a part from the first half of its samples to the second

_MOST_LAUNCH_RATIO = 1.5  # of a part launched kernel by kernel over the same as a CUDA graph

_MOST_ROUND_RATIO = LimitsConfig().launch_ratio or 1.0  # of a round over what it computes


def _imprecise(run: Run) -> Iterator[Doubt]:
    wide = [record for record in run.isolated if record.relative_half_width > _MOST_HALF_WIDTH]
    if not wide:
        return
    worst = max(wide, key=lambda record: record.relative_half_width)
    size = worst.vocab_size or worst.num_tokens
    yield Doubt(
        "imprecise",
        f"{len(wide)} of {len(run.isolated)} parts timed on their own are known to no better than "
        f"{_MOST_HALF_WIDTH:.0%}, the worst ({worst.part}{f' at {size:,}' if size else ''}) to "
        f"{worst.relative_half_width:.0%}",
        "raise timing.budget_s",
        (ISOLATED,),
    )


def _unsettled(run: Run) -> Iterator[Doubt]:
    """Times that had not settled when sampling began, and went on changing."""
    # A slow part ends its warm-up before it was called often enough to judge; its samples then decide.
    found = [r for r in run.isolated if r.warmup_stable is False and _has_trend(r.device_ms)]
    if not found:
        return
    names = ", ".join(sorted({record.part for record in found}))
    yield Doubt(
        "unsettled",
        f"{len(found)} of {len(run.isolated)} parts timed on their own ({names}) had not settled when their "
        f"warm-up ended, and changed by more than {_MOST_TREND:.0%} while they were timed",
        "raise timing.max_warmup_s",
        (ISOLATED,),
    )


def _has_trend(samples_ms: list[float]) -> bool:
    """Whether the medians of either half are apart, by much and beyond their intervals."""
    half = len(samples_ms) // 2
    if half < 3:
        return False
    before, after = median(np.array(samples_ms[:half])), median(np.array(samples_ms[half:]))
    are_apart = before.ci_low > after.ci_high or after.ci_low > before.ci_high
    return are_apart and abs(after.value / before.value - 1) > _MOST_TREND


def _launches(run: Run) -> Iterator[Doubt]:
    """Parts of a draft step that take longer to launch than to compute, so that a smaller head gains less."""
    worst = launch_ratio(run)
    if worst is None or run.execution != EAGER:
        return
    if worst.ratio <= (_MOST_ROUND_RATIO if worst.of_rounds else _MOST_LAUNCH_RATIO):
        return
    yield Doubt(
        "launch_bound",
        f"rounds here are bound by launches: {worst.phrase}",
        "an engine with CUDA graphs gains more from a smaller head than is measured here: see latency.csv",
        (SPEED, OVER_PLAIN, OVER_FULL, OVER_FULL_BEST),
    )


def _timer(run: Run) -> Iterator[Doubt]:
    """The clock against the shortest draft steps; a part that is merely short is no reason to doubt it."""
    timer = run.environment.get("timer")
    steps, heads = [], []
    for probe in (probe for probes in run.probes.values() for probe in probes):
        samples = step_samples(probe.laps_ms, probe.draft_length)
        steps += samples["draft_step"]
        heads += samples.get("lm_head", [])
    if not timer or not heads:
        return
    head_ms, tick_ms = float(np.quantile(heads, 0.05)), timer["resolution_ms"]
    if tick_ms is None or tick_ms > _MOST_RESOLUTION * head_ms:
        step = "stands still between marks" if tick_ms is None else f"has steps of {tick_ms * 1e3:.2g} us"
        what = f"the clock {step}, and the shortest LM head takes {head_ms * 1e3:.3g} us"
        yield Doubt(
            "coarse_timer",
            what,
            "update the driver; until then rely on whole decodes alone",
            (OVER_PLAIN, OVER_FULL, OVER_FULL_BEST, PREDICTION),
        )
        return
    # At draft length 1 no step is chained, and one mark ends the head.
    num_marks = _MARKS_PER_STEP if steps else 1
    shortest_ms = float(np.quantile(steps, 0.05)) if steps else head_ms
    marks_ms = num_marks * timer["mark_ms"]
    # Of the host's pace nothing follows for laps of a busy device.
    if not timer.get("is_device_pace", True) or marks_ms <= _MOST_MARKS * shortest_ms:
        return
    yield Doubt(
        "coarse_timer",
        f"the marks of a draft step cost {marks_ms * 1e3:.2g} us, more than {_MOST_MARKS:.0%} of the "
        f"shortest ({shortest_ms * 1e3:.3g} us)",
        "read the shortest parts as upper bounds",
        (OVER_PLAIN, OVER_FULL, OVER_FULL_BEST, PREDICTION),
    )


_CHECKS: tuple[Callable[[Run], Iterator[Doubt]], ...] = (
    _unfinished, _one_prompt, _disturbed, _drift, _imprecise, _unsettled, _timer, _launches, _others, _clock,
    _cpu_clock, _wrong_sensors, _unsteady_energy, _slowed, _other_gpu_processes, _cut_off, _changed,
)  # fmt: skip
