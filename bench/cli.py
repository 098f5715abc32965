"""The command line: Hydra composes, this checks, runs a task and turns errors into one line.

The only file that knows Hydra.
"""

import difflib
import hashlib
import os
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from bench.config import Config, Task
from bench.errors import BenchError, ConfigError
from bench.sweep import describe_end, job_name, prepare_sweep, run_job

_CONF = Path(__file__).resolve().parent.parent / "conf"
_INTERRUPTED = 130

# Launchers that ask for one kind of GPU for all jobs of a sweep; the extra that brings each plugin.
_ONE_KIND = ("slurm", "ray_cluster")
_EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "ray": "ray"}

ConfigStore.instance().store(name="schema", node=Config)


class SweepStart(Callback):
    """Hydra calls this in the process that launches a sweep, before the first job."""

    folder: ClassVar[Path | None] = None  # of the sweep that this process launched

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Prepares the sweep's folder. It ends the program itself: Hydra only warns of errors in here."""
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        swept = [gpu for gpu in config.hydra.overrides.task if gpu.startswith("gpu=") and "," in gpu]
        folder = _sweep_folder(config.hydra)
        try:
            if launcher in _ONE_KIND and swept:
                raise ConfigError(
                    f"{swept[0]} is impossible with hydra/launcher={launcher}, which asks for one kind of "
                    "GPU per sweep: launch one sweep for each"
                )
            prepare_sweep(folder, ["python", "-m", "bench", *sys.argv[1:]])
        except BenchError as error:
            _stop(str(error), error.exit_code)
        SweepStart.folder = folder
        _say(f"sweep in {folder}: one log per job")


def main() -> NoReturn:
    """Runs the command line and exits: 0 well, 1 slower, 2 what the user can mend, 130 interrupted."""
    # Hydra would print its own traceback and exit with 1; errors come to us instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = [quote_gpu_index(argument) for argument in sys.argv[1:]]
    try:
        _job()
    except (HydraException, OmegaConfBaseException) as error:
        _stop(_explain(error), BenchError.exit_code)
    except KeyboardInterrupt:
        _tell_sweep()
        when = "" if SweepStart.folder else " before the first measurement"
        _stop(f"interrupted{when}", _INTERRUPTED)
    except Exception:
        # What a launcher died of, such as a lost node, must not hide how its jobs ended.
        _tell_sweep()
        raise
    sys.exit(_tell_sweep())


@hydra.main(version_base="1.3", config_path=str(_CONF), config_name="config")
def _job(composed: DictConfig) -> None:
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        _run_in_sweep(composed)
        return
    try:
        _run(_typed(composed))
    except BenchError as error:
        _stop(str(error), error.exit_code)


def _run_in_sweep(composed: DictConfig) -> None:
    launched = HydraConfig.get()
    overrides = list(launched.overrides.task)
    name = job_name(overrides, hashlib.sha256(OmegaConf.to_yaml(composed).encode()).hexdigest())
    run_job(_sweep_folder(launched), name, overrides, Path(launched.runtime.cwd))


def _sweep_folder(launched: Any) -> Path:
    # Not every launcher starts its jobs in the folder that the sweep was launched in.
    return Path(launched.runtime.cwd) / launched.sweep.dir


def _tell_sweep() -> int:
    """How the sweep went, if this process launched one, and its exit code."""
    if SweepStart.folder is None:
        return 0
    lines, exit_code = describe_end(SweepStart.folder)
    for line in lines:
        _say(line)
    return exit_code


def _typed(composed: DictConfig) -> Config:
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise BenchError(_explain(error)) from error
    assert isinstance(config, Config)
    return config


def _run(config: Config) -> None:
    # The heavy imports wait until the configuration is known to be good.
    console = Console()
    config.check_target()
    if config.task is Task.fit:
        from bench.report.render import find_run, render_fit

        render_fit(find_run(config.runs_dir, config.run), console)
        return
    if config.task is Task.predict:
        from bench.predict import run_predict

        run_predict(config, console)
        return
    if config.task in (Task.report, Task.compare, Task.diff):
        _run_on_several(config, console)
        return
    if config.task is Task.select:
        from bench.selection.run import run_select

        run_select(config, console)
        return
    if config.task is Task.export:
        from bench.selection.from_run import run_export

        run_export(config, console)
        return
    if config.task is Task.selfcheck:
        from bench.selfcheck import run_selfcheck

        run_selfcheck(config, console)
        return
    from bench.runs import InterruptedRunError, run_bench

    try:
        if config.task is Task.draft:
            from bench.draft_run import run_draft

            run_draft(config, console)
        else:
            run_bench(config, console)
    except InterruptedRunError as stopped:
        _stop(str(stopped), _INTERRUPTED)


def _run_on_several(config: Config, console: Console) -> None:
    from bench.compare.tasks import find_folders, run_diff

    if config.task is not Task.diff:
        from bench.page.task import run_report

        folders = find_folders(config.runs_dir, config.runs or [config.run])
        run_report(folders, config.runs_dir, config.reports_dir, config.out, console)
        return
    folders = find_folders(config.runs_dir, config.runs)
    exit_code = run_diff(folders, config.diff.threshold, config.reports_dir, config.out, console)
    if exit_code:
        sys.exit(exit_code)


def quote_gpu_index(argument: str) -> str:
    """`gpu=0,1` to `gpu='0','1'`: Hydra reads a bare number as an integer, which cannot name an option."""
    if not argument.startswith("gpu="):
        return argument
    return "gpu=" + re.sub(r"(?<![^,=])(\d+)(?![^,])", r"'\1'", argument.removeprefix("gpu="))


def _say(message: str) -> None:
    print(f"bench: {' '.join(message.split())}", file=sys.stderr)


def _stop(message: str, code: int) -> NoReturn:
    _say(message)
    sys.exit(code)


def _explain(error: Exception) -> str:
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
        known = ", ".join(sorted(path.stem for path in (_CONF / group[1]).glob("*.yaml")))
        return f"unknown {group[1]} '{group[2]}'; known are {known}"
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
