"""How long a pass takes on a device of which only its limits are known, and how near it comes to them."""

from dataclasses import dataclass

from bench.cost.components import ComponentCost
from bench.cost.hardware import HardwareSpec
from bench.fit.errors import FitError

# Between launches an eager PyTorch loop spends some microseconds of the host's time.
EAGER_LAUNCH_US = 5.0


@dataclass(frozen=True)
class Calibration:
    """How near to its limits a device comes.

    Attributes:
        bandwidth_share: reached, of the memory bandwidth.
        peak_share: reached, of the peak.
        launch_us: per kernel.
        origin: where the shares are from, in words.
        launch_origin: where the launch time is from, in words.
    """

    bandwidth_share: float = 1.0
    peak_share: float = 1.0
    launch_us: float = EAGER_LAUNCH_US
    origin: str = "the device reaches its whole bandwidth and peak, so that real steps are slower"
    launch_origin: str = f"every kernel is launched eagerly, in {EAGER_LAUNCH_US:g} us"

    def __post_init__(self) -> None:
        if min(self.bandwidth_share, self.peak_share) <= 0 or self.launch_us < 0:
            raise FitError("shares of bandwidth and peak must be above 0 and launch times not below 0")


def calibrate(
    t0_ms: float, bytes_per_s: float, step: ComponentCost, spec: HardwareSpec, device_name: str
) -> Calibration:
    """The shares of a measured device, from a fit of t0 + B/W to its draft step.

    Args:
        t0_ms: fitted.
        bytes_per_s: fitted.
        step: the draft step that it was fitted to.
        spec: of the device that was measured.
        device_name: for the assumptions.
    """
    share, launch_us = bytes_per_s / spec.memory_bytes_per_s, 1e3 * t0_ms / step.num_launches
    return Calibration(
        bandwidth_share=share,
        peak_share=1.0,
        launch_us=launch_us,
        origin=f"the device reaches {share:.0%} of its bandwidth, as {device_name} did, and its whole peak",
        launch_origin=f"every kernel is launched in {launch_us:.1f} us, as on {device_name}",
    )


def latency_ms(cost: ComponentCost, spec: HardwareSpec, dtype: str, calibration: Calibration) -> float:
    """t0 + max(F/P, B/W) of a pass, with t0 from its launches.

    Raises:
        FitError: the device has no peak for `dtype`.
    """
    peak = spec.peak(dtype)
    if peak is None:
        raise FitError(f"{spec.name} has no peak for {dtype}: {spec.source} gives none; choose another dtype")
    compute_s = cost.flops / (calibration.peak_share * peak)
    memory_s = cost.total_bytes / (calibration.bandwidth_share * spec.memory_bytes_per_s)
    return 1e3 * (cost.num_launches * calibration.launch_us * 1e-6 + max(compute_s, memory_s))
