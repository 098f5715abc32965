"""What was sampled beside a run: energy per token, and the series that a figure shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.analysis.run import Run
from bench.stats.estimates import Floats
from bench.telemetry.windows import energy_between
from bench.variant import Variant

# A panel each: its axis, and the fields that it shows with their names.
_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("power (W)", (("power_w", "GPU"),)),
    ("clock (MHz)", (("sm_clock_mhz", "SM"), ("memory_clock_mhz", "GPU memory"), ("cpu_clock_mhz", "CPU"))),
    ("temperature (C)", (("temperature_c", "GPU"), ("cpu_temperature_c", "CPU"))),
    (
        "load (share)",
        (
            *(("utilization", "GPU"), ("cpu_load", "CPU"), ("cpu_load_of_others", "other processes")),
            ("cpu_steal", "stolen by the hypervisor"),
        ),
    ),
    ("tasks waiting (share of time)", (("cpu_pressure", "for a CPU"), ("memory_pressure", "for memory"))),
    ("memory traffic (GB/s)", (("memory_bytes_per_s", "all CPUs"),)),
    ("GPU memory (GB)", (("memory_used_bytes", "used"),)),
)

_SCALE = {"memory_used_bytes": 1e-9, "memory_bytes_per_s": 1e-9}

_MOST_POINTS = 2000  # more cannot be seen, and would make a file large


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

    @property
    def tokens_per_joule(self) -> float | None:
        """The inverse; None where it is not known."""
        return None if self.j_per_token is None else 1 / self.j_per_token


def token_energy(run: Run, domain: str, variant: Variant) -> TokenEnergy:
    """Of one variant: while it decoded without a pause, else over its decodes where each was long enough."""
    steady = run.steady.get(domain, {}).get(variant, [])
    if steady:
        windows = [(record.start_s, record.end_s, record.num_tokens) for record in steady]
    else:
        windows = [
            (r.start_s, r.end_s, len(r.token_ids) - 1)
            for r in run.decodes_of(domain, variant)
            if r.start_s is not None and r.end_s is not None
        ]
    devices = run.environment.get("target_devices", [])
    if len(devices) > 1:
        reason = f"the target ran on {' and '.join(devices)}, and the sensors of one device were read"
        return TokenEnergy(None, None, reason)
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
    """Why no sensor reads the energy of the device; None where one does."""
    fields, unsupported = ("energy_j", "power_w") if of_gpu else ("cpu_energy_j",), run.samples.unsupported
    if not all(name in unsupported for name in fields):
        return None
    return "; ".join(dict.fromkeys(unsupported[name] for name in fields))


@dataclass(frozen=True)
class SampledSeries:
    """One quantity over the time of a run.

    Attributes:
        panel: label of its axis.
        name: of the line.
        times_s: since the first sample `(n,)`.
        values: in the unit of the panel `(n,)`.
    """

    panel: str
    name: str
    times_s: Floats
    values: Floats


def sampled_series(run: Run) -> list[SampledSeries]:
    """Every quantity that was read, in the order of the panels; empty without samples."""
    rows = run.samples.rows
    return [
        SampledSeries(panel, name, *_series(rows, field))
        for panel, fields in _PANELS
        for field, name in fields
        if any(row.get(field) is not None for row in rows)
    ]


def _series(rows: Sequence[dict[str, Any]], field: str) -> tuple[Floats, Floats]:
    known = [(row["time_s"], row[field]) for row in rows if row.get(field) is not None]
    table = np.array(known, dtype=np.float64)
    table = table[:: max(1, len(table) // _MOST_POINTS)]
    return table[:, 0] - rows[0]["time_s"], table[:, 1] * _SCALE.get(field, 1)


def measured_spans(run: Run) -> dict[str, tuple[float, float]]:
    """From the first to the last decode of every domain, in s since the first sample.

    Domains that took turns share a span, which has all their names.
    """
    start_s, spans = run.samples.rows[0]["time_s"] if run.samples.rows else 0.0, {}
    for domain in run.decodes:
        records = run.decodes_of(domain)
        starts = [record.start_s for record in records if record.start_s is not None]
        ends = [record.end_s for record in records if record.end_s is not None]
        if starts and ends:
            spans[domain] = (min(starts) - start_s, max(ends) - start_s)
    merged: list[tuple[list[str], float, float]] = []
    for domain, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if merged and begin < merged[-1][2]:
            names, first, last = merged.pop()
            merged.append(([*names, domain], first, max(last, end)))
        else:
            merged.append(([domain], begin, end))
    return {", ".join(names): (begin, end) for names, begin, end in merged}


# What a user calls the readings of the sensors.
_READINGS = {
    "power_w": "power of the GPU in W",
    "energy_j": "energy counter of the GPU in J",
    "sm_clock_mhz": "SM clock in MHz",
    "memory_clock_mhz": "memory clock in MHz",
    "temperature_c": "temperature of the GPU in C",
    "utilization": "load of the GPU as a share",
    "memory_used_bytes": "memory of the GPU in bytes",
    "throttle_reasons": "reasons for a lower clock",
    "pcie_tx_bytes_per_s": "bytes sent over PCIe in a second",
    "pcie_rx_bytes_per_s": "bytes received over PCIe in a second",
    "cpu_clock_mhz": "clock of the CPU in MHz",
    "cpu_temperature_c": "temperature of the CPU in C",
    "cpu_load": "load of the CPUs as a share",
    "cpu_steal": "share of the CPUs that the hypervisor gave to others",
    "memory_bytes_per_s": "bytes between CPUs and memory in a second",
    "cpu_energy_j": "energy counter of the CPU",
}


def impossible_readings(run: Run) -> str:
    """The first answer of each sensor that cannot be, as a list in words; empty if there is none."""
    sessions = [*run.environment.get("earlier_telemetry", []), run.environment.get("telemetry")]
    found: dict[str, str] = {}
    for session in sessions:
        found |= ((session or {}).get("gpu") or {}).get("impossible", {})
    found |= run.samples.impossible
    return "; ".join(f"{_READINGS.get(name, name)}: {answer}" for name, answer in sorted(found.items()))
