"""Reads one GPU through NVML, by UUID and in our units. Lists once what the GPU does not report."""

from collections.abc import Callable
from typing import Any

import pynvml

# Errors after which nothing will answer: the GPU or the driver is gone.
_GONE = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}

# Errors that stay: this GPU does not report the value, or not to this user.
_NEVER = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not supported by this GPU",
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "not known to this driver",
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: "not known to this driver",
}

# A MIG slice has no sensor for these. The sensors of the GPU measure all slices together.
_OF_THE_WHOLE_GPU = ("power_w", "energy_j", "pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s")

_NO_SENSOR = "a MIG slice has no sensor of its own"

_HIDDEN_PIDS = (
    "the driver's list of processes does not contain this process, as in a container with its own process "
    "ids, so other processes cannot be recognised"
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


# The least and the most that a reading can be; drivers answer with 0 or all bits set if they do not know.
_POSSIBLE = {
    "power_w": (0.1, 5000.0),
    "energy_j": (0.0, 1e12),
    "sm_clock_mhz": (1, 10_000),
    "memory_clock_mhz": (1, 50_000),
    "temperature_c": (-50, 150),
    "utilization": (0.0, 1.0),
    "memory_used_bytes": (0, 2**50),
    "pcie_tx_bytes_per_s": (0, 10**12),
    "pcie_rx_bytes_per_s": (0, 10**12),
    "power_limit_w": (1.0, 5000.0),
    "power_limit_default_w": (1.0, 5000.0),
    "power_limit_range_w": (0.0, 5000.0),
    "sm_clock_max_mhz": (1, 10_000),
    "memory_clock_max_mhz": (1, 50_000),
    "application_sm_clock_mhz": (1, 10_000),
    "ecc": (0, 1),
    "mig": (0, 1),
    "persistence": (0, 1),
}

# All bits set: the driver does not know.
_ALL_BITS = (2**32 - 1, 2**64 - 1)

# Members of NVML's value union by type.
_VALUE_TYPES = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


class NvmlError(Exception):
    """NVML or the GPU cannot be used, or not any more; the message says why."""


def driver_version() -> str | None:
    """Version of the GPU driver; None if NVML does not answer."""
    try:
        pynvml.nvmlInit()
        try:
            return pynvml.nvmlSystemGetDriverVersion()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def gpu_seen() -> tuple[str, str | None] | None:
    """Name of the first GPU that the driver shows, and the driver's version; None without either."""
    try:
        pynvml.nvmlInit()
        try:
            if not pynvml.nvmlDeviceGetCount():
                return None
            name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    return name, driver_version()


class NvmlGpu:
    """Reads one GPU.

    Attributes:
        unsupported: by field, the reason why it is None.
        impossible: by field, the first answer that no sensor can give; such answers count as none.
        is_mig: whether the device is a MIG slice. Memory and processes are then those of the slice; clocks,
            temperature and limits are those of the whole GPU; energy is not known.
    """

    def __init__(self, uuid: str):
        """Finds the GPU by UUID: torch, CUDA_VISIBLE_DEVICES and NVML can number GPUs differently.

        Raises:
            NvmlError: the library, the driver or the GPU is not there.
        """
        self.unsupported: dict[str, str] = {}
        self.impossible: dict[str, str] = {}
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NvmlError(f"NVML does not start: {error}") from error
        self._handle, self._own = self._find(uuid)
        self.is_mig = self._handle is not self._own
        if self.is_mig:
            self.unsupported |= dict.fromkeys(_OF_THE_WHOLE_GPU, _NO_SENSOR)

    def fast(self) -> dict[str, Any]:
        """Readings of a sample that are cheap; None if `unsupported` or without an answer this time."""
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
            "memory_used_bytes": self._ask("memory_used_bytes", self._memory_used_bytes),
            "throttle_reasons": self._ask("throttle_reasons", self._throttle_reasons),
        }

    def slow(self, own_pids: set[int]) -> dict[str, Any]:
        """Readings that take NVML about 20 ms each: PCIe throughput; and the other processes on the GPU.

        Args:
            own_pids: ids of the process that measures and of others that belong to the run.
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
        """Values that do not change during a run."""
        get, handle, ask = pynvml, self._handle, self._ask

        def limits() -> list[float]:
            return [mw / 1e3 for mw in get.nvmlDeviceGetPowerManagementLimitConstraints(handle)]

        def mode(field: str, question: Callable[[], int]) -> str | None:
            value = ask(field, question)
            return None if value is None else "on" if value else "off"

        self.fast()  # fills `unsupported`
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
            "ecc": mode("ecc", lambda: get.nvmlDeviceGetEccMode(handle)[0]),
            "mig": "a slice" if self.is_mig else mode("mig", lambda: get.nvmlDeviceGetMigMode(handle)[0]),
            "persistence": mode("persistence", lambda: get.nvmlDeviceGetPersistenceMode(handle)),
            "unsupported": dict(self.unsupported),
            "impossible": dict(self.impossible),
        }

    def close(self) -> None:
        """Closes the library; it is not an error if it is already closed."""
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            return

    def _find(self, uuid: str) -> tuple[Any, Any]:
        """Handles of the GPU and of the device: the same, or a GPU and a slice of it."""
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
                raise NvmlError(f"NVML cannot open GPU {uuid}: {error}") from error
        raise NvmlError(f"NVML has no GPU {uuid}")

    def _ask(self, field: str, question: Callable[[], Any]) -> Any:
        if field in self.unsupported:
            return None
        try:
            return self._checked(field, question())
        except pynvml.NVMLError as error:
            if error.value in _GONE:
                raise NvmlError(f"the GPU stopped answering: {error}") from error
            if error.value in _NEVER:
                self.unsupported[field] = _NEVER[error.value]
            return None
        except pynvml.NVMLLibraryMismatchError:
            self.unsupported[field] = "not known to this driver"
            return None

    def _checked(self, field: str, answer: Any) -> Any:
        """The answer, if a sensor can give it."""
        if field not in _POSSIBLE or answer is None:
            return answer
        least, most = _POSSIBLE[field]
        if all(least <= value <= most for value in (answer if isinstance(answer, list) else [answer])):
            return answer
        self.impossible.setdefault(field, str(answer))
        return None

    def _clock(self, kind: int) -> int:
        return pynvml.nvmlDeviceGetClockInfo(self._handle, kind)

    def _memory_used_bytes(self) -> int:
        memory = pynvml.nvmlDeviceGetMemoryInfo(self._own)
        # More than there is cannot be used.
        return memory.used if memory.used <= memory.total else -1

    def _power_w(self) -> float:
        """Power now. `nvmlDeviceGetPowerUsage` is a mean over the last second on most newer GPUs."""
        try:
            (field,) = pynvml.nvmlDeviceGetFieldValues(self._handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
            if field.nvmlReturn == pynvml.NVML_SUCCESS:
                return getattr(field.value, _VALUE_TYPES.get(field.valueType, "uiVal")) / 1e3
        except pynvml.NVMLError as error:
            if error.value not in _NEVER:
                raise
        return pynvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3

    def _throttle_reasons(self) -> list[str] | None:
        try:
            bits = pynvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle)
        except pynvml.NVMLError_FunctionNotFound:
            # The name before CUDA 13.
            bits = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)
        if bits in _ALL_BITS:
            self.impossible.setdefault("throttle_reasons", hex(bits))
            return None
        known = sum(_REASONS.values())
        # A reason that newer drivers know and this program does not is named by its bit.
        unknown = [f"unknown_{1 << i:#x}" for i in range(64) if (bits & ~known) >> i & 1]
        return [name for name, bit in _REASONS.items() if bits & bit] + unknown
