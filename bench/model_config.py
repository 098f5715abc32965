"""Reads a model's `config.json`; every room that needs one calls this."""

import json
from pathlib import Path
from typing import Any

from bench.errors import CheckpointError


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """A `config.json` as text, to the byte, and its values.

    Raises:
        CheckpointError: it is absent or not a JSON object.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        values = json.loads(text)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable configuration ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, as a model's configuration is")
    return text, values
