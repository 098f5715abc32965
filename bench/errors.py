"""Errors that users see: each says what is wrong, where, and how to fix it.

`cli.py` prints the message of a `BenchError` on one line and exits with its code. Any other exception is
a bug in this program and keeps its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class BenchError(Exception):
    """Base of all errors that a user can fix; the message says how."""

    exit_code = 2


class ConfigError(BenchError):
    """A configuration value is missing, unknown or impossible."""


class AssetError(BenchError):
    """A model or data file could not be fetched, verified or unpacked."""


class DomainError(BenchError):
    """The source of a domain has no usable prompts, or a broken line."""


class VocabError(BenchError):
    """A draft vocabulary of the requested size or shape cannot be made."""


class CheckpointError(BenchError):
    """A draft checkpoint does not have the expected layout."""


class DeviceError(BenchError):
    """The requested device is missing or cannot do what was requested."""


class LostDeviceError(BenchError):
    """The device failed during a run, and this process cannot use it any more."""

    exit_code = 1


class FailedCasesError(BenchError):
    """The run ended, but some cases could not be measured."""

    exit_code = 1


class InvalidVerdictError(BenchError):
    """A verdict is INVALID: something was past its limit. What was measured is kept."""

    exit_code = 1


class ResultFileError(BenchError):
    """A result file of another tool is damaged, of another version, or says nothing that can be used."""


class OutputError(BenchError):
    """Results cannot be written to the requested place."""


def one_line(error: object) -> str:
    """The text of a foreign error on one line; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def require(condition: bool, name: str, value: object, possible: str) -> None:
    """Raises a ConfigError with the value and the possible values if `condition` is false."""
    if not condition:
        raise ConfigError(f"{name}={value} is impossible: it must be {possible}")


class FitError(BenchError):
    """A latency model cannot be fitted to these measurements."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the host or of a device."""
    text = str(error).lower()
    said = "out of memory" in text or "can't allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Says in one line that memory ran out during some work.

    Raises:
        DeviceError: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DeviceError(
            f"memory ran out while {what}: {first_line}; end what else uses it, measure a smaller pair or a "
            "dtype of two bytes, spread the target with pair.device_map=auto, or choose another gpu="
        ) from error
