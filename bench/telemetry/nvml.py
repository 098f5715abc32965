"""One GPU as NVML sees it: read by UUID, in our units, with what it cannot tell said once."""

from collections.abc import Callable
from typing import Any

import pynvml

# Of a board that is not there any more, or a driver that went away: nothing will answer again.
_GONE = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}

# What this GPU, or this user, will never be told.
_NEVER = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not supported by this GPU",
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "not known to this driver",
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: "not known to this driver",
}

# A slice is told these by no sensor of its own; those of the GPU are of all its slices together.
_OF_THE_WHOLE_GPU = ("power_w", "energy_j", "pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s")

_NO_SENSOR = "a MIG slice has no sensor of its own"

_HIDDEN_PIDS = (
    "this process is not among those that the driver lists, as in a container, which numbers its processes "
    "anew: others cannot be told from it"
)

_REASONS = {
    "idle": pynvml.nvmlClocksEventReasonGpuIdle,
    "application_clocks": pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
    "power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hw_slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
    "sync_boost": pynvml.nvmlClocksEventReasonSyncBoost,
    "sw_thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hw_thermal": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "power_brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "display_clocks": pynvml.nvmlClocksEventReasonDisplayClockSetting,
}


class NvmlError(Exception):
    """NVML, or the GPU behind it, cannot be used (any more); the message says why."""


def driver_version() -> str | None:
    """Of the GPUs' driver; None where NVML does not answer."""
    try:
        pynvml.nvmlInit()
        try:
            return pynvml.nvmlSystemGetDriverVersion()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


class NvmlGpu:
    """Reads one GPU.

    Attributes:
        unsupported: by field, why it is None.
        is_mig: whether the device is a slice; memory and processes are then its own, clocks, temperature and
            limits those of the GPU that it is cut from, and energy is not known.
    """

    def __init__(self, uuid: str):
        """Finds the GPU by UUID, whatever order torch, CUDA_VISIBLE_DEVICES and NVML number their GPUs in.

        Raises:
            NvmlError: the library, the driver or the GPU is not there.
        """
        self.unsupported: dict[str, str] = {}
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NvmlError(f"NVML does not start: {error}") from error
        self._handle, self._own = self._find(uuid)
        self.is_mig = self._handle is not self._own
        if self.is_mig:
            self.unsupported |= dict.fromkeys(_OF_THE_WHOLE_GPU, _NO_SENSOR)

    def fast(self) -> dict[str, Any]:
        """What a sample holds and is cheap to ask; None where `unsupported` or no answer this time."""
        get, handle = pynvml, self._handle
        return {
            "power_w": self._ask("power_w", self._power_w),
            "energy_j": self._ask("energy_j", lambda: get.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3),
            "sm_clock_mhz": self._ask("sm_clock_mhz", lambda: self._clock(get.NVML_CLOCK_SM)),
            "memory_clock_mhz": self._ask("memory_clock_mhz", lambda: self._clock(get.NVML_CLOCK_MEM)),
            "temperature_c": self._ask(
                "temperature_c", lambda: get.nvmlDeviceGetTemperature(handle, get.NVML_TEMPERATURE_GPU)
            ),
            "utilization": self._ask(
                "utilization", lambda: get.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            ),
            "memory_used_bytes": self._ask(
                "memory_used_bytes", lambda: get.nvmlDeviceGetMemoryInfo(self._own).used
            ),
            "throttle_reasons": self._ask("throttle_reasons", self._throttle_reasons),
        }

    def slow(self, own_pids: set[int]) -> dict[str, Any]:
        """What takes NVML some 20 ms each to tell: PCIe throughput; and the other processes on the GPU.

        Args:
            own_pids: the process that measures, as this process knows it, and others that are no strangers.
        """
        get, handle = pynvml, self._handle

        def pcie(counter: int) -> int:
            return get.nvmlDeviceGetPcieThroughput(handle, counter) * 1024

        def others() -> list[int] | None:
            listed = {process.pid for process in get.nvmlDeviceGetComputeRunningProcesses(self._own)}
            if not listed & own_pids:
                self.unsupported["other_pids"] = _HIDDEN_PIDS
                return None
            return sorted(listed - own_pids)

        return {
            "pcie_tx_bytes_per_s": self._ask(
                "pcie_tx_bytes_per_s", lambda: pcie(get.NVML_PCIE_UTIL_TX_BYTES)
            ),
            "pcie_rx_bytes_per_s": self._ask(
                "pcie_rx_bytes_per_s", lambda: pcie(get.NVML_PCIE_UTIL_RX_BYTES)
            ),
            "other_pids": self._ask("other_pids", others),
        }

    def describe(self) -> dict[str, Any]:
        """What does not change during a run."""
        get, handle, ask = pynvml, self._handle, self._ask

        def limits() -> list[float]:
            return [mw / 1e3 for mw in get.nvmlDeviceGetPowerManagementLimitConstraints(handle)]

        def mode(value: int) -> str:
            return "on" if value else "off"

        self.fast()  # learns what this GPU does not tell
        return {
            "driver": ask("driver", get.nvmlSystemGetDriverVersion),
            "vbios": ask("vbios", lambda: get.nvmlDeviceGetVbiosVersion(handle)),
            "power_limit_w": ask("power_limit_w", lambda: get.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3),
            "power_limit_default_w": ask(
                "power_limit_default_w",
                lambda: get.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1e3,
            ),
            "power_limit_range_w": ask("power_limit_range_w", limits),
            "sm_clock_max_mhz": ask(
                "sm_clock_max_mhz", lambda: get.nvmlDeviceGetMaxClockInfo(handle, get.NVML_CLOCK_SM)
            ),
            "memory_clock_max_mhz": ask(
                "memory_clock_max_mhz", lambda: get.nvmlDeviceGetMaxClockInfo(handle, get.NVML_CLOCK_MEM)
            ),
            "application_sm_clock_mhz": ask(
                "application_sm_clock_mhz",
                lambda: get.nvmlDeviceGetApplicationsClock(handle, get.NVML_CLOCK_SM),
            ),
            "ecc": ask("ecc", lambda: mode(get.nvmlDeviceGetEccMode(handle)[0])),
            "mig": "a slice"
            if self.is_mig
            else ask("mig", lambda: mode(get.nvmlDeviceGetMigMode(handle)[0])),
            "persistence": ask("persistence", lambda: mode(get.nvmlDeviceGetPersistenceMode(handle))),
            "unsupported": dict(self.unsupported),
        }

    def close(self) -> None:
        """Lets the library go; a library that is gone already is no error."""
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            return

    def _find(self, uuid: str) -> tuple[Any, Any]:
        """Handles of the GPU and of the device itself: the same, or a GPU and a slice that is cut from it."""
        bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
        for name in (f"GPU-{bare}", f"MIG-{bare}"):
            try:
                handle = pynvml.nvmlDeviceGetHandleByUUID(name)
                if name.startswith("MIG-"):
                    return pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), handle
                return handle, handle
            except pynvml.NVMLError as error:
                if error.value in (pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT):
                    continue
                raise NvmlError(f"NVML does not give GPU {uuid}: {error}") from error
        raise NvmlError(f"NVML knows no GPU {uuid}")

    def _ask(self, field: str, question: Callable[[], Any]) -> Any:
        if field in self.unsupported:
            return None
        try:
            return question()
        except pynvml.NVMLError as error:
            if error.value in _GONE:
                raise NvmlError(f"the GPU stopped answering: {error}") from error
            if error.value in _NEVER:
                self.unsupported[field] = _NEVER[error.value]
            return None
        except pynvml.NVMLLibraryMismatchError:
            self.unsupported[field] = "not known to this driver"
            return None

    def _clock(self, kind: int) -> int:
        return pynvml.nvmlDeviceGetClockInfo(self._handle, kind)

    def _power_w(self) -> float:
        """Power now; `nvmlDeviceGetPowerUsage` is a mean over the last second on most newer GPUs."""
        try:
            (field,) = pynvml.nvmlDeviceGetFieldValues(self._handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
            if field.nvmlReturn == pynvml.NVML_SUCCESS:
                return field.value.uiVal / 1e3
        except pynvml.NVMLError as error:
            if error.value not in _NEVER:
                raise
        return pynvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3

    def _throttle_reasons(self) -> list[str]:
        try:
            bits = pynvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle)
        except pynvml.NVMLError_FunctionNotFound:
            # The name before CUDA 13.
            bits = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)
        return [name for name, bit in _REASONS.items() if bits & bit]
