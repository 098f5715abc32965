"""Pairs whose shapes are at hand: the sizes of their two `config.json`, and a published acceptance if any."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from bench.cost.config_json import read_config
from bench.cost.shape import DraftShape
from bench.errors import ConfigError
from bench.gpu_tables.target import Target

FOLDER = Path(__file__).parent / "shapes"


@dataclass(frozen=True)
class Pair:
    """A target and its draft, by their sizes alone.

    Attributes:
        name: for readers.
        target: its sizes.
        draft: its sizes.
        profile: a published acceptance, as `bench.surface.lengths` reads it; None where none is at hand.
        rounds: published times of speculative decoding, to check and to know the host by; None without.
    """

    name: str
    target: Target
    draft: DraftShape
    profile: Mapping[str, Any] | None = field(default=None, hash=False)
    rounds: Mapping[str, Any] | None = field(default=None, hash=False)


def ready_names() -> list[str]:
    """Names of the pairs that are at hand."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def ready_pair(name: str, key: str) -> Pair:
    """A pair by name.

    Args:
        name: one of `ready_names`.
        key: configuration key that named it, for errors.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in ready_names():
        raise ConfigError(f"{key}={name} is unknown; known are {', '.join(ready_names())}")
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    target = Target.from_config(values["target"], f"{name}, target")
    draft = DraftShape.from_config(values["draft"], f"{name}, draft")
    return Pair(name, target, draft, values.get("profile"), values.get("rounds"))


def pair_of_files(target: Path, draft: Path) -> Pair:
    """A pair from two `config.json`, or the folders that hold them.

    Raises:
        CheckpointError: one cannot be read, or is of a kind that cannot be composed; the message says why.
    """
    paths = [path / "config.json" if path.is_dir() else path for path in (target, draft)]
    values = [read_config(path)[1] for path in paths]
    return Pair(
        f"{_named(paths[0])} with {_named(paths[1])}",
        Target.from_config(values[0], str(paths[0])),
        DraftShape.from_config(values[1], str(paths[1])),
    )


def _named(path: Path) -> str:
    return path.parent.name if path.name == "config.json" else path.stem
