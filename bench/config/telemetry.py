"""Whether power, clocks and load are sampled beside a run."""

from dataclasses import dataclass
from enum import Enum

from bench.config.check import require


class TelemetryMode(Enum):
    """Names are what a user writes."""

    auto = "auto"
    required = "required"
    off = "off"


@dataclass
class TelemetryConfig:
    """What is sampled beside a run.

    Attributes:
        mode: `auto` samples what the machine tells; `required` refuses to run on a CPU, and where NVML does
            not answer; `off` samples nothing.
        interval_ms: between samples.
        steady_s: how long each proved variant decodes without a pause, twice, on a device that tells its
            energy, so that energy per token is known; sensors are too slow for single decodes. It is never
            shorter than sensors that are read at this interval need, and left out on a CPU whose decodes are
            long enough for its counters. 0 leaves it out.
    """

    mode: TelemetryMode = TelemetryMode.auto
    interval_ms: int = 100
    steady_s: float = 3.0

    def __post_init__(self) -> None:
        require(self.interval_ms >= 10, "telemetry.interval_ms", self.interval_ms, "at least 10")
        require(self.steady_s >= 0, "telemetry.steady_s", self.steady_s, "at least 0")
