"""The command line: Hydra composes, this checks, runs a task and turns errors into one line.

The only file that knows Hydra.
"""

import difflib
import os
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from bench.config import Config, Task
from bench.errors import BenchError

_CONF = Path(__file__).resolve().parent.parent / "conf"
_INTERRUPTED = 130

ConfigStore.instance().store(name="schema", node=Config)


@hydra.main(version_base="1.3", config_path=str(_CONF), config_name="config")
def _job(composed: DictConfig) -> None:
    # The heavy imports wait until the configuration is known to be good.
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    console = Console()
    if config.task is Task.REPORT:
        from bench.report.render import find_run, render

        render(find_run(config.runs_dir, config.run), console)
        return
    from bench.runs import run_bench

    run_bench(config, console)


def main() -> NoReturn:
    """Runs the command line and exits: 0 well, 1 failed half-way, 2 bad input, 130 interrupted."""
    # Hydra would print its own traceback and exit with 1; errors come to us instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _job()
    except BenchError as error:
        _stop(str(error), error.exit_code)
    except (HydraException, OmegaConfBaseException) as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, BenchError):
                _stop(str(cause), cause.exit_code)
            cause = cause.__cause__ or cause.__context__
        _stop(_explain(error), 2)
    except KeyboardInterrupt:
        _stop("interrupted before the first measurement", _INTERRUPTED)
    except Exception as error:
        if type(error).__name__ != "Interrupted":
            raise
        _stop(_describe_interruption(error), _INTERRUPTED)
    sys.exit(0)


def _stop(message: str, code: int) -> NoReturn:
    print(f"bench: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _describe_interruption(error: Any) -> str:
    return (
        f"interrupted; the {error.num_records} records measured so far are in {error.folder} - "
        f"python -m bench task=report run={error.folder.name} draws them"
    )


def _explain(error: Exception) -> str:
    """One line for Hydra's and OmegaConf's errors, with the nearest known key."""
    text = str(error)
    unknown = re.search(r"Key '([^']+)' is not in struct|Key '([^']+)' not in '", text)
    if unknown:
        key = next(group for group in unknown.groups() if group)
        near = difflib.get_close_matches(key.split(".")[-1], _known_keys(), n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; top-level keys are {', '.join(f.name for f in fields(Config))}"
        return f"unknown key '{key}'{hint}"
    group = re.search(r"Could not find '([^']+)'", text)
    if group and "/" in group[1]:
        name, _, option = group[1].partition("/")
        known = sorted(path.stem for path in (_CONF / name).glob("*.yaml"))
        return f"unknown {name} '{option}'; known are {', '.join(known)}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2])


def _known_keys() -> list[str]:
    keys: list[str] = []

    def walk(schema: Any) -> None:
        for item in fields(schema):
            keys.append(item.name)
            if is_dataclass(item.type):
                walk(item.type)

    walk(Config)
    return keys
