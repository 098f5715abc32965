"""The command line, as the tests on a GPU start it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.records import Record, read_records

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and the folder of its results."""

    code: int
    text: str
    results: Path

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return (self.results / "runs" / "latest").resolve()

    @property
    def environment(self) -> dict[str, Any]:
        return json.loads((self.run / "environment.json").read_text("utf-8"))

    @property
    def records(self) -> list[Record]:
        return list(read_records(self.run))


class Command(Protocol):
    """Starts the command line.

    Attributes:
        pair: arguments that say which pair and text are measured, in the shortest way.
        effort: arguments for rates that mean something.
        least: arguments for the least that shows that it works.
    """

    pair: Sequence[str]
    effort: Sequence[str]
    least: Sequence[str]

    def __call__(self, results: Path, arguments: Iterable[str]) -> Outcome:
        """Runs to the end."""


class Subprocess:
    """The embedded pair, in a process of its own."""

    pair = ("experiment=smoke", "domain=code")
    effort = (
        "measure.num_prompts=4", "measure.max_new_tokens=96", "measure.probe_rounds=8", "telemetry.steady_s=2"
    )  # fmt: skip
    least = ("timing.isolated=false",)

    def __call__(self, results: Path, arguments: Iterable[str]) -> Outcome:
        command = [sys.executable, "-m", "bench", *arguments, f"results_dir={results}"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280
        )
        return Outcome(done.returncode, done.stdout + done.stderr, results)
