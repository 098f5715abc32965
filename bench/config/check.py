"""The check that every configuration class uses."""

from bench.errors import ConfigError


def require(condition: bool, name: str, value: object, possible: str) -> None:
    """Raises a ConfigError that names the value and what is possible, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name}={value} is impossible: it must be {possible}")
