"""Errors that users meet: each says what is wrong, where, and how to mend it.

`cli.py` prints the message of a `BenchError` on one line and exits with its code; anything else is
a defect of this program and keeps its traceback.
"""


class BenchError(Exception):
    """Base of every error that names its own mend."""

    exit_code = 2


class ConfigError(BenchError):
    """A configuration value is missing, unknown or impossible."""


class AssetError(BenchError):
    """A model or data file could not be fetched, verified or unpacked."""


class DomainError(BenchError):
    """A domain's source has no usable prompts or a broken line."""


class VocabError(BenchError):
    """A draft vocabulary of the asked size or shape cannot be made."""


class CheckpointError(BenchError):
    """A draft checkpoint does not have the expected layout."""


class DeviceError(BenchError):
    """The asked device is not there or cannot do what was asked."""


class LostDeviceError(BenchError):
    """The device failed in the middle of a run and is of no more use to this process."""

    exit_code = 1


class FailedCasesError(BenchError):
    """The run went on to its end, but some cases could not be measured."""

    exit_code = 1


class OutputError(BenchError):
    """Results cannot be written where they were asked to go."""


# The check that every configuration class uses.


def require(condition: bool, name: str, value: object, possible: str) -> None:
    """Raises a ConfigError that names the value and what is possible, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name}={value} is impossible: it must be {possible}")


# What can be wrong with measurements that are to be fitted.


class FitError(BenchError):
    """Measurements cannot be fitted or judged as they are."""
