"""What a run says of itself beside its records: `environment.json` and `config.yaml`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bench.errors import OutputError


class _Settings(dict[str, Any]):
    """Values of a file of a run, also inside others. Reading one that is not there names the file."""

    def __init__(self, path: Path, values: Any):
        if not isinstance(values, dict):
            raise OutputError(f"{path.parent} is not a run: {path.name} holds no names and values")
        self._path = path
        inside = {key: _Settings(path, value) for key, value in values.items() if isinstance(value, dict)}
        super().__init__(values | inside)

    def __missing__(self, key: str) -> NoReturn:
        raise OutputError(f"{self._path} lacks {key!r}; name a run whose files are as they were written")


def read_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `environment.json` and `config.yaml` of a run say.

    Raises:
        OutputError: it is not a run; also later, where a value is read that is not there.
    """
    return _read(folder / "environment.json", json.loads), _read(folder / "config.yaml", yaml.safe_load)


def _read(path: Path, parse: Callable[[str], Any]) -> _Settings:
    try:
        return _Settings(path, parse(path.read_text("utf-8")))
    except OSError as error:
        why = f"{path.name} cannot be read ({error.strerror})"
    except (ValueError, yaml.YAMLError):
        why = f"{path.name} is damaged"
    raise OutputError(f"{path.parent} is not a run: {why}; copy the whole folder of the run again")
