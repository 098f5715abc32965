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
    """

    j_per_token: float | None
    method: str | None = None
    reason: str | None = None


def token_energy(run: Run, domain: str, key: Key) -> TokenEnergy:
    """Of one variant: while it decoded without a pause, else over its decodes where each was long enough."""
    if steady := run.steady.get(domain, {}).get(key):
        windows, num_tokens = [(steady.start_s, steady.end_s)], steady.num_tokens
    else:
        decodes = [
            r for r in run.decodes[domain][key].values() if r.start_s is not None and r.end_s is not None
        ]
        windows = [(r.start_s, r.end_s) for r in decodes if r.start_s is not None and r.end_s is not None]
        num_tokens = sum(len(record.token_ids) - 1 for record in decodes)
    telemetry = run.environment.get("telemetry") or {}
    of_gpu = bool(run.environment.get("cuda"))
    if not run.samples.rows or not windows or (of_gpu and telemetry.get("why_not")):
        return TokenEnergy(None, None, telemetry.get("why_not") or "nothing was sampled beside this run")
    found = [energy_between(run.samples.rows, *window, of_gpu) for window in windows]
    total_j = 0.0
    for energy in found:
        if energy.energy_j is None:
            return TokenEnergy(None, None, _no_sensor(run, of_gpu) or energy.reason)
        total_j += energy.energy_j
    return TokenEnergy(total_j / num_tokens, found[0].method)


def _no_sensor(run: Run, of_gpu: bool) -> str | None:
    """Why no sensor tells the energy of the device; None where one does."""
    fields, unsupported = ("energy_j", "power_w") if of_gpu else ("cpu_energy_j",), run.samples.unsupported
    if not all(name in unsupported for name in fields):
        return None
    return "; ".join(dict.fromkeys(unsupported[name] for name in fields))
