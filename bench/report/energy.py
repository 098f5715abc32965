"""Energy per token of what was decoded, from the samples beside a run."""

from dataclasses import dataclass

from bench.report.frames import Key, Run
from bench.telemetry.windows import energy_between


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
