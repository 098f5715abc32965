"""What makes a run's figures doubtful, in plain words with the remedy; from its records and samples alone."""

import numpy as np

from bench.report.doubt import Doubt
from bench.report.frames import Run
from bench.report.timing_doubts import timing_doubts

# A run is doubted beyond these; each is far above what a quiet machine shows and small enough to matter.
_MOST_REPEATED = 0.05  # share of measurements that were held up and taken again
_MOST_DRIFT = 0.05  # change of the same work from one half of the run to the other
_MOST_OTHERS = 0.05  # load of other processes, as a share of all CPUs
_MOST_CLOCK_SPREAD = 0.03  # of the GPU's SM clock while it works
_BUSY = 0.5  # utilisation from which a GPU counts as working

_SLOWED = {
    "power_cap": "its power limit",
    "hw_slowdown": "a hardware slowdown",
    "sw_thermal": "its temperature",
    "hw_thermal": "its temperature",
    "power_brake": "an external power brake",
}


def doubts(run: Run) -> list[Doubt]:
    """Everything that is doubtful about a run."""
    found = [_repeats(run), _drift(run), _others(run), _clock(run), *timing_doubts(run)]
    return [doubt for doubt in (*found, *_slowed(run), *_strangers(run), *_cut_off(run)) if doubt]


def _repeats(run: Run) -> Doubt | None:
    measured = [record for probes in run.probes.values() for record in probes]
    numbers = [record.num_repeats for record in measured]
    numbers += [
        record.num_repeats
        for by_key in run.decodes.values()
        for by_prompt in by_key.values()
        for record in by_prompt.values()
    ]
    share = float(np.mean([number > 0 for number in numbers])) if numbers else 0.0
    if share <= _MOST_REPEATED:
        return None
    return Doubt(
        "held_up",
        f"{share:.0%} of the measurements were held up by something else on the machine and taken again",
        "let nothing run beside a measurement",
    )


def _drift(run: Run) -> Doubt | None:
    """Plain decoding does the same work whenever it comes; its first half of the run against its second."""
    worst, where = 0.0, ""
    for domain, by_key in run.decodes.items():
        plain = [
            record for (_, gamma), by_prompt in by_key.items() if not gamma for record in by_prompt.values()
        ]
        plain.sort(key=lambda record: record.order)
        steps = [
            float(np.median(record.laps_ms["verify"])) for record in plain if record.laps_ms.get("verify")
        ]
        if len(steps) < 4:
            continue
        half = len(steps) // 2
        drift = float(np.median(steps[half:]) / np.median(steps[:half]) - 1)
        if abs(drift) > abs(worst):
            worst, where = drift, domain
    if abs(worst) <= _MOST_DRIFT:
        return None
    return Doubt(
        "drift",
        f"plain decoding of {where} became {abs(worst):.0%} {'slower' if worst > 0 else 'faster'} during the "
        "run",
        "warm the machine up, keep its clocks fixed, and measure again; ratios of what was interleaved hold "
        "better than absolute figures",
    )


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
    rows = [row for row in run.samples.rows if (row.get("utilization") or 0) >= _BUSY]
    clocks = np.array([row["sm_clock_mhz"] for row in rows if row.get("sm_clock_mhz")], dtype=float)
    if len(clocks) < 10:
        return None
    low, high = np.quantile(clocks, [0.05, 0.95])
    if (high - low) / high <= _MOST_CLOCK_SPREAD:
        return None
    return Doubt(
        "moving_clock",
        f"the GPU's clock moved between {low:.0f} and {high:.0f} MHz while it worked",
        f"fix it: nvidia-smi --lock-gpu-clocks={low:.0f} (as root), and --reset-gpu-clocks afterwards",
    )


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
    lost = [why for why in run.samples.ended if why not in ("the run ended", "the run was killed")]
    text = "sampling ended early: {}"
    remedy = "see the driver's log (dmesg); figures after that moment have no telemetry"
    return [Doubt("telemetry_lost", text.format(why), remedy) for why in lost]


def _column(run: Run, field: str) -> np.ndarray:
    return np.array([row[field] for row in run.samples.rows if row.get(field) is not None], dtype=float)
