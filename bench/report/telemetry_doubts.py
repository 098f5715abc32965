"""Doubts that the samples beside a run raise: clocks, throttling, strangers, and samples that lack."""

from typing import Any

import numpy as np

from bench.records import DecodeRecord, ProbeRecord
from bench.report.doubt import Doubt
from bench.report.energy import token_energy
from bench.report.frames import Run
from bench.telemetry.samples import RUN_ENDED, RUN_KILLED

# A run is doubted beyond these; each is far above what a quiet machine shows and small enough to matter.
_MOST_OTHERS = 0.05  # load of other processes, as a share of all CPUs
_MOST_CLOCK_SPREAD = 0.03  # of the GPU's SM clock while it is measured
_MOST_CPU_CLOCK_SPREAD = 0.05  # of the fastest CPU's clock while it is measured
_MOST_ENERGY_SPREAD = 0.1  # of energy per token between two windows of the same variant
_LEAST_CLOCKS = 10  # readings, to tell a spread

_SLOWED = {
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


def telemetry_doubts(run: Run) -> list[Doubt]:
    """What the samples beside a run, and what it says of its device, make doubtful."""
    found = [_others(run), _clock(run), _cpu_clock(run)]
    found.append(_unsteady_energy(run))
    several = (*_slowed(run), *_strangers(run), *_cut_off(run), *_changed(run))
    return [doubt for doubt in (*found, *several) if doubt]


def _others(run: Run) -> Doubt | None:
    loads = _column(run, "cpu_load_of_others")
    if not len(loads) or float(np.median(loads)) <= _MOST_OTHERS:
        return None
    return Doubt(
        "other_load",
        f"other processes took {float(np.median(loads)):.0%} of the CPUs (median over the run)",
        "end them, or measure on a machine of its own",
    )


def _clock(run: Run) -> Doubt | None:
    spread = _spread(run, "sm_clock_mhz")
    if spread is None or (spread[1] - spread[0]) / spread[1] <= _MOST_CLOCK_SPREAD:
        return None
    low, high = spread
    return Doubt(
        "moving_clock",
        f"the GPU's clock moved between {low:.0f} and {high:.0f} MHz while it was measured",
        f"fix it: nvidia-smi --lock-gpu-clocks={low:.0f} (as root), and --reset-gpu-clocks afterwards",
    )


def _cpu_clock(run: Run) -> Doubt | None:
    """Of a run on the CPU: its clock moved, or was left free to move while nothing told whether it did."""
    if run.environment.get("cuda"):
        return None
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
            return None
        text = f"the CPU's clock is left to the governor {governor}, and what it did was not seen"
        return Doubt("cpu_scaling", text, remedy)
    low, high = spread
    if (high - low) / high <= _MOST_CPU_CLOCK_SPREAD:
        return None
    text = f"the CPU's clock moved between {low:.0f} and {high:.0f} MHz while it was measured"
    settings = {"governor": governor, "turbo": turbo}
    known = ", ".join(f"{name} {value}" for name, value in settings.items() if value)
    return Doubt("moving_cpu_clock", f"{text} ({known})" if known else text, remedy)


def _slowed(run: Run) -> list[Doubt]:
    rows = [row["throttle_reasons"] for row in run.samples.rows if row.get("throttle_reasons") is not None]
    shares = {text: 0.0 for text in _SLOWED.values()}
    for text in shares:
        names = {name for name, of in _SLOWED.items() if of == text}
        shares[text] = float(np.mean([bool(names & set(reasons)) for reasons in rows])) if rows else 0.0
    return [
        Doubt(
            "throttled",
            f"the GPU was slowed down by {text} in {share:.0%} of the samples",
            "cool it, raise its power limit, or lower its clocks to what it can keep up",
        )
        for text, share in shares.items()
        if share > 0.01
    ]


def _strangers(run: Run) -> list[Doubt]:
    found = sorted({pid for row in run.samples.rows for pid in row.get("other_pids") or []})
    if not found:
        return []
    pids = ", ".join(map(str, found[:5]))
    text = f"{len(found)} other processes were on the GPU (pid {pids})"
    return [Doubt("shared_gpu", text, "end them, or choose another gpu=")]


def _cut_off(run: Run) -> list[Doubt]:
    ended = [why for why in run.samples.ended if why not in (RUN_ENDED, RUN_KILLED)]
    after = "figures after that moment have no telemetry"
    return [
        *(
            Doubt(
                "telemetry_lost",
                f"the GPU was sampled no more: {why}",
                f"see the driver's log (dmesg); {after}",
            )
            for why in run.samples.lost
        ),
        *(
            Doubt("telemetry_lost", f"sampling ended early: {why}", f"see the system's log; {after}")
            for why in ended
        ),
    ]


def _unsteady_energy(run: Run) -> Doubt | None:
    """The same work took another energy in its second window."""
    energies = [token_energy(run, domain, key) for domain in run.steady for key in run.steady[domain]]
    worst = max((energy.spread or 0.0 for energy in energies), default=0.0)
    if worst <= _MOST_ENERGY_SPREAD:
        return None
    return Doubt(
        "unsteady_energy",
        f"energy per token of the same variant differed by up to {worst:.0%} between its two windows",
        "raise telemetry.steady_s, and keep clocks and temperature steady",
    )


def _changed(run: Run) -> list[Doubt]:
    """Of a run that was cut off and gone on with after its GPU was set otherwise."""
    sessions = [*run.environment.get("earlier_telemetry", []), run.environment.get("telemetry")]
    told = [session["gpu"] for session in sessions if session and session.get("gpu")]
    doubts = []
    for field, name in _SETTINGS.items():
        values = list(dict.fromkeys(str(gpu[field]) for gpu in told if gpu.get(field) is not None))
        if len(values) > 1:
            text = f"the GPU's {name} changed between the sessions of this run ({' -> '.join(values)})"
            doubts.append(Doubt("changed_gpu", text, "measure again from the start with resume=false"))
    return doubts


def _spread(run: Run, field: str) -> tuple[float, float] | None:
    """The 5% and 95% quantiles of a field while something was measured; None where it was read too seldom."""
    values = [row[field] for row in _while_measured(run) if row.get(field)]
    if len(values) < _LEAST_CLOCKS:
        return None
    low, high = np.quantile(values, [0.05, 0.95])
    return float(low), float(high)


def _while_measured(run: Run) -> list[dict[str, Any]]:
    """Samples that were taken while a probe or a decode ran: a device that waits may do as it likes."""
    records: list[DecodeRecord | ProbeRecord] = []
    for by_key in run.decodes.values():
        for by_prompt in by_key.values():
            records += by_prompt.values()
    for probes in run.probes.values():
        records += probes
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
