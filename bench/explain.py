"""What the command line says: one line for every error that is not ours, and the options of `--help`."""

import difflib
import re
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from bench.config import Config

CONF = Path(__file__).resolve().parent.parent / "conf"

# The extra that brings each launcher's plugin.
_EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "ray": "ray"}
_FLAGS = ("--help", "--multirun", "--cfg", "--package", "--resolve", "--info", "--hydra-help", "--version")
_HELP_WIDTH, _HELP_INDENT = 98, 15


def option_names(group: str) -> list[str]:
    """What a group of conf/ offers."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def wrapped_options(group: str) -> str:
    """The same as `--help` shows it: indented and no wider than a terminal."""
    lines = textwrap.wrap(", ".join(option_names(group)), _HELP_WIDTH - _HELP_INDENT)
    return f"\n{' ' * _HELP_INDENT}".join(lines)


def explain_usage(message: str) -> str:
    """One line for options that the command line does not know."""
    word = message.partition("unrecognized arguments: ")[2].split(" ")[0]
    if not word:
        return f"{message}; --help shows what there is"
    if not word.startswith("-"):
        return f"{word} stands after an option that follows other values: give options first, or last"
    near = difflib.get_close_matches(word, _FLAGS, n=1)
    return f"unknown option {word}; {f'did you mean {near[0]}?' if near else '--help shows what there is'}"


def explain_missing(keys: list[str]) -> str:
    """One line for values that have to be given."""
    given = " ".join(f"{key}=..." for key in keys)
    what = ", each a local folder or a hub id" if all(key.startswith("pair.") for key in keys) else ""
    return f"{' and '.join(keys)} {'is' if len(keys) == 1 else 'are'} missing: give {given}{what}"


def explain(error: Exception) -> str:
    """One line for Hydra's and OmegaConf's errors, with the nearest known key."""
    text = str(error)
    unknown = re.search(r"(?:Key|Could not override) '([^']+)'(?: (?:is )?not in |\.)", text)
    if unknown:
        near = difflib.get_close_matches(unknown[1].split(".")[-1], _known_keys(Config), n=1)
        top_level = ", ".join(f.name for f in fields(Config))
        return f"unknown key '{unknown[1]}'; " + (
            f"did you mean {near[0]}?" if near else f"top-level keys are {top_level}"
        )
    group = re.search(r"Could not (?:find|load) '(.+)/([^'/]+)'", text)
    if group and group[2] in _EXTRAS and group[1] == "hydra/launcher":
        extra = _EXTRAS[group[2]]
        return f"this launcher is not installed: .venv/bin/python -m pip install -e '.[{extra}]'"
    if group:
        return f"unknown {group[1]} '{group[2]}'; known are {', '.join(option_names(group[1]))}"
    reason = " ".join([line.strip() for line in text.splitlines() if line.strip()][:2])
    merged = reason.removeprefix("Error merging override ")
    if merged == reason:
        return reason
    # Only the innermost error says what was wrong with the value, and which values there are.
    cause: BaseException = error
    while cause.__cause__:
        cause = cause.__cause__
    return f"{merged}: {str(cause).splitlines()[0]}"


def _known_keys(schema: Any) -> list[str]:
    keys: list[str] = []
    for item in fields(schema):
        keys.append(item.name)
        if is_dataclass(item.type):
            keys += _known_keys(item.type)
    return keys
