"""The command line: Hydra composes the values; this checks them, runs a task and prints errors in one line.

The only file that knows Hydra.
"""

import difflib
import hashlib
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, NoReturn, get_args, get_origin, get_type_hints

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from bench import __version__
from bench.config import Config, Task
from bench.config.paths import expand_home
from bench.errors import BenchError, ConfigError
from bench.progress import hide_foreign_bars
from bench.sweep import describe_end, devices_of, is_job, job_name, prepare_sweep, run_job
from bench.tasks import overridden, refuse_unread, run_task, unread_keys

_INTERRUPTED = 130

# Launchers that request one kind of GPU for all jobs of a sweep.
_ONE_KIND = ("slurm", "ray_cluster")

CONF = Path(__file__).resolve().parent.parent / "conf"

# The largest number of GPUs in one machine.
_MOST_GPUS = 64

_HELP_WIDTH, _HELP_INDENT = 98, 15

# Least likeness of a mistyped key and the one that is suggested.
_SIMILAR = 0.65


def option_names(group: str) -> list[str]:
    """Names of the options of a group of conf/."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def wrapped_options(group: str) -> str:
    """The options of a group as `--help` shows them: indented, and no wider than a terminal."""
    lines = textwrap.wrap(", ".join(option_names(group)), _HELP_WIDTH - _HELP_INDENT)
    return f"\n{' ' * _HELP_INDENT}".join(lines)


def _register() -> None:
    """Registers what is not in conf/: the schema, `gpu=<index>`, and the lists of `--help`."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for index in range(_MOST_GPUS):
        store.store(group="gpu", name=str(index), node={"device": f"cuda:{index}"})
    OmegaConf.register_new_resolver("options", wrapped_options, replace=True)


_register()


class SweepStart(Callback):
    """Hydra calls this in the process that launches a sweep, before the first job."""

    # The sweep that this process launched.
    folder: ClassVar[Path | None] = None
    launcher: ClassVar[str] = "basic"

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Prepares the sweep's folder. Exits on an error: Hydra would only print a warning."""
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        jobs = jobs_of(list(config.hydra.overrides.task))
        swept = [gpu for gpu in config.hydra.overrides.task if gpu.startswith("gpu=") and "," in gpu]
        folder = _sweep_folder(config.hydra)
        try:
            refuse_unread(jobs or [])
            if launcher in _ONE_KIND and swept:
                raise ConfigError(
                    f"{swept[0]} is impossible with hydra/launcher={launcher}, which requests one kind "
                    "of GPU per sweep: launch one sweep for each"
                )
            # Only this launcher runs jobs at the same time on one machine without a scheduler that divides
            # it.
            devices = devices_of(jobs or []) if launcher == "gpus" else []
            prepare_sweep(folder, ["python", "-m", "bench", *sys.argv[1:]], jobs, devices)
        except BenchError as error:
            _stop(str(error), error.exit_code)
        SweepStart.folder, SweepStart.launcher = folder, launcher
        _say(f"sweep in {folder}: one log per job")


def jobs_of(overrides: list[str]) -> list[list[str]] | None:
    """Overrides of every job of a sweep, as Hydra's sweeper makes them; None if they depend on conf/."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    except HydraException:
        return None


def main() -> NoReturn:
    """Runs the command line and exits: 0 success, 1 slower, INVALID or failed, 2 wrong input, 130 Ctrl-C."""
    # Otherwise Hydra prints its own traceback and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    hide_foreign_bars()
    sys.argv[1:] = arrange(sys.argv[1:])
    _check_options(sys.argv[1:])
    try:
        _job()
    except (HydraException, OmegaConfBaseException) as error:
        _stop(explain(error), BenchError.exit_code)
    except KeyboardInterrupt:
        _end_sweep()
        when = "" if SweepStart.folder else " before the first measurement"
        _stop(f"interrupted{when}", _INTERRUPTED)
    except Exception as error:
        if isinstance(error, OSError) and not _reached_task(error):
            _stop(f"Hydra: {error}; choose another hydra.run.dir", BenchError.exit_code)
        if SweepStart.folder is None or SweepStart.launcher == "basic":
            raise
        # Jobs are separate processes, so this is an error of the launcher, such as a lost node.
        _say(explain_launcher(SweepStart.launcher, error, SweepStart.folder))
        sys.exit(max(_end_sweep(), BenchError.exit_code))
    sys.exit(_end_sweep())


def _reached_task(error: Exception) -> bool:
    return SweepStart.folder is not None or any(
        frame.name == "_job" for frame in traceback.extract_tb(error.__traceback__)
    )


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(composed: DictConfig) -> None:
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        _run_in_sweep(composed)
        return
    given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)  # as text, nothing resolved
    try:
        config = _typed(composed)
        if not is_job():  # a sweep looked at all its jobs before the first
            refuse_unread([given])
        for reason in [*unread_keys(given).values(), *overridden(given)]:
            _say(reason)
        exit_code = run_task(config, Console())
    except BenchError as error:
        _stop(str(error), error.exit_code)
    if exit_code:
        sys.exit(exit_code)


def _run_in_sweep(composed: DictConfig) -> None:
    launched = HydraConfig.get()
    overrides = list(launched.overrides.task)
    name = job_name(overrides, hashlib.sha256(OmegaConf.to_yaml(composed).encode()).hexdigest())
    run_job(_sweep_folder(launched), name, overrides, Path(launched.runtime.cwd))


def _sweep_folder(launched: Any) -> Path:
    # Some launchers start jobs in another working folder.
    return Path(launched.runtime.cwd) / launched.sweep.dir


def _end_sweep() -> int:
    """Prints how the sweep ended, if this process launched one, and returns its exit code."""
    if SweepStart.folder is None:
        return 0
    lines, exit_code = describe_end(SweepStart.folder)
    for line in lines:
        _say(line)
    return exit_code


def _typed(composed: DictConfig) -> Config:
    try:
        if missing := sorted(OmegaConf.missing_keys(composed)):
            raise ConfigError(explain_missing(missing))
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise BenchError(explain(error)) from error
    assert isinstance(config, Config)
    if added := next(_added_keys(config), None):
        raise ConfigError(explain_unknown(added))
    return config


def _added_keys(config: Any, where: str = "") -> Iterator[str]:
    """Keys that the schema does not have; OmegaConf makes them attributes."""
    known = {item.name for item in fields(config)}
    for name, value in vars(config).items():
        several = value.items() if isinstance(value, dict) else [("", value)]
        if name.startswith("_"):
            continue
        if name not in known:
            yield f"{where}{name}"
            continue
        for key, inner in several:
            if is_dataclass(inner):
                yield from _added_keys(inner, f"{where}{name}.{key}{'.' if key else ''}")


# Text on the command line is taken as it stands. Hydra's grammar would read `1e3`, `a(1).jsonl` or
# `{instruction}` as something else or not at all, so that such text is quoted for it.

_FLAG_OF_SWEEP = ("-m", "--multirun")

# Keys of Hydra's own that hold paths.
_HYDRA_PATHS = ("hydra.sweep.dir", "hydra.sweep.subdir", "hydra.run.dir")

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""

# What commas separate; a comma inside quotes does not.
_PIECE = re.compile(rf"\s*((?:{_QUOTED})(?=\s*,)|[^,]*),", re.S)

_PLAIN = re.compile(r"[\w./@%+-]+", re.ASCII)

# Of a sweep, such as choice(a,b).
_SWEEP_FUNCTION = re.compile(r"(?:choice|glob|interval|range|shuffle|sort|tag)\(.*\)", re.S)

# Interpolations stay what they are where they name a key or one of Hydra's resolvers.
_INTERPOLATION = re.compile(
    rf"\$\{{(?:oc\.|now:|hydra[:.]|(?:{'|'.join(f.name for f in fields(Config))})[.}}])"
)


def arrange(arguments: list[str]) -> list[str]:
    """The arguments as Hydra needs them: `-m` before the first value, and text quoted."""
    sweeps = [argument for argument in arguments if argument in _FLAG_OF_SWEEP][:1]
    is_sweep = bool(sweeps) or "hydra.mode=MULTIRUN" in arguments
    rest = [argument for argument in arguments if argument not in _FLAG_OF_SWEEP]
    return sweeps + [quote_text(argument, is_sweep) for argument in rest]


def quote_text(argument: str, is_sweep: bool = False) -> str:
    """`KEY=VALUE` with a value that Hydra reads as the text that it is, where the key holds text.

    What is quoted as a whole is left as it is, and so are `null` and what Hydra can read for keys that hold
    something else.

    Args:
        argument: of the command line.
        is_sweep: whether commas separate the values of several jobs.
    """
    key, equals, value = argument.partition("=")
    if not equals or key.startswith("-"):
        return argument
    wanted = _type_of(key)
    if key in _HYDRA_PATHS:
        wanted, value = str, expand_home(value)
    if wanted is str and is_sweep:
        is_function = bool(_SWEEP_FUNCTION.fullmatch(value))
        return argument if is_function else f"{key}={_quote_pieces(value)}"
    if wanted is str:
        return f"{key}={_quote(value)}"
    if wanted == list[str] and value.startswith("[") and value.endswith("]"):
        lists = re.split(r"(?<=\])\s*,\s*(?=\[)", value) if is_sweep else [value]
        return f"{key}={','.join(f'[{_quote_pieces(items[1:-1])}]' for items in lists)}"
    if _is_group(key) and not value.startswith("glob("):
        read = _read(argument)
        is_swept = read and (read.is_choice_sweep() or read.is_range_sweep())
        names = list(read.sweep_string_iterator()) if read and is_swept else [value]
        return f"{key}={','.join(map(_quote_name, names))}"
    return argument if _read(argument) else f"{key}={_quote(value)}"


def _quote_pieces(text: str) -> str:
    pieces = [piece.strip() for piece in _PIECE.findall(text + ",")] if text.strip() else []
    return ",".join(map(_quote, pieces))


def _is_group(key: str) -> bool:
    return (CONF / key.lstrip("+").partition("@")[0]).is_dir()


def _quote_name(text: str) -> str:
    """The name of an option. Hydra reads a bare number, `true` or `null` as something else, and fails."""
    read = _read(f"key={text}")
    is_text = re.fullmatch(_QUOTED, text, re.S) or (read and read.value() == text)
    return text if is_text else QuotedString(text, Quote.single).with_quotes()


def _quote(text: str) -> str:
    if re.fullmatch(_QUOTED, text, re.S) or text.lower() == "null":
        return text
    if _PLAIN.fullmatch(text):
        read = _read(f"key={text}")
        if read and str(read.value()) == text:
            return text
    escaped = re.sub(r"(\\*)(\$\{)", partial(_escape, text), text)
    return QuotedString(escaped, Quote.single).with_quotes()


def _escape(text: str, found: re.Match[str]) -> str:
    r"""Escapes `${`, and the backslashes before it, where it is no interpolation: `\${`."""
    is_interpolation = _INTERPOLATION.match(text, found.start(2))
    return found[0] if is_interpolation else f"{found[1] * 2}\\{found[2]}"


def _read(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _type_of(key: str) -> Any:
    """The type that the schema gives a key, null aside; None for a key that it does not know."""
    found: Any = Config
    for name in key.lstrip("+").split("."):
        if is_dataclass(found):
            found = get_type_hints(found).get(name)
        else:
            found = get_args(found)[1] if get_origin(found) is dict else None
        options = [option for option in get_args(found) if option is not type(None)]
        if isinstance(found, UnionType) and len(options) == 1:
            found = options[0]
    return found


def _check_options(arguments: list[str]) -> None:
    """Refuses an unknown option with one line; Hydra's parser would print all its options.

    Answers `--version`, with which Hydra would print its own.
    """
    if arguments == ["--version"]:
        print(f"vocabtrim-bench {__version__}")
        sys.exit(0)
    parser = get_args_parser()

    def stop(message: str) -> NoReturn:
        _stop(explain_usage(message), ConfigError.exit_code)

    parser.error = stop  # type: ignore[method-assign]
    parser.parse_args(arguments)


def _say(message: str) -> None:
    print(f"bench: {' '.join(message.split())}", file=sys.stderr)


def _stop(message: str, code: int) -> NoReturn:
    _say(message)
    sys.exit(code)


# By `hydra/launcher=`: the option of its plugin, and the extra in pyproject.toml that installs the plugin.
_PLUGINS = {"gpus": ("joblib", "joblib"), "slurm": ("submitit_slurm", "slurm"), "ray_cluster": ("ray", "ray")}

# What to check if a launcher cannot start jobs.
_LAUNCHER_CHECKS = {
    "slurm": "sinfo must list a partition here that hydra.launcher.partition and .account may use",
    "ray_cluster": "hydra.launcher.ray.init.address=local starts a Ray here, auto needs a running one",
}

_FLAGS = ("--help", "--multirun", "--cfg", "--package", "--resolve", "--info", "--hydra-help", "--version")


def explain_usage(message: str) -> str:
    """One line about an unknown option of the command line."""
    word = message.partition("unrecognized arguments: ")[2].split(" ")[0]
    if not word:
        return f"{message}; --help lists all options"
    if not word.startswith("-"):
        return f"{word} stands after an option that follows other values: put options first or last"
    near = difflib.get_close_matches(word, _FLAGS, n=1)
    return f"unknown option {word}; {f'did you mean {near[0]}?' if near else '--help lists all options'}"


def explain_unknown(key: str) -> str:
    """One line about a key that does not exist, with the nearest one that does."""
    parent, _, last = key.casefold().rpartition(".")
    places = {name: name.rpartition(".") for name in ("experiment", *_known_keys(Config))}
    beside = [own for above, _, own in places.values() if above == parent]
    names = [own for *_, own in places.values()]
    near = [] if last in set(names) - set(beside) else difflib.get_close_matches(last, beside, 1, _SIMILAR)
    if not near and (match := difflib.get_close_matches(last, names, 1, _SIMILAR)):
        near = [" or ".join(name for name, (*_, own) in places.items() if own == match[0])]
    keys = f"top-level keys are {', '.join(f.name for f in fields(Config))}, experiment"
    return f"unknown key '{key}'; {f'did you mean {near[0]}?' if near else keys}"


def explain_missing(keys: list[str]) -> str:
    """One line about required values that are missing."""
    given = " ".join(f"{key}=..." for key in keys)
    what = ", each a local folder or a hub id" if all(key.startswith("pair.") for key in keys) else ""
    return f"{' and '.join(keys)} {'is' if len(keys) == 1 else 'are'} missing: add {given}{what}"


# What a value must be, by what OmegaConf says of another one.
_MUST_BE = {
    "not a valid bool": "it must be true or false",
    "converted to Integer": "it must be a whole number",
    "converted to Float": "it must be a number",
    "is not Optional": "it must not be null",
}


def explain(error: Exception) -> str:
    """One line about an error of Hydra or OmegaConf, with the nearest known key."""
    if isinstance(error, OverrideParseException):
        is_task = error.override in Task.__members__
        such_as = f"task={error.override}" if is_task else "domain=code or measure.num_prompts=20"
        return f"cannot read {error.override!r}: write KEY=VALUE, such as {such_as}"
    text = str(error)
    unknown = re.search(r"(?:Key|Could not override) '([^']*)'(?: (?:is )?not in |\.)", text)
    if unknown:
        return explain_unknown(unknown[1])
    several = re.match(r"Ambiguous value for argument '([^=]*)=(.*)'", text)
    if several:
        a_list = "" if _is_group(several[1]) else f"; a list is written {several[1]}=[{several[2]}]"
        return f"{several[1]}={several[2]} is several values: -m runs one job for each{a_list}"
    group = re.search(r"Could not (?:find|load) '(.+)/([^'/]*)'", text)
    extra = dict(_PLUGINS.values()).get(group[2]) if group and group[1] == "hydra/launcher" else None
    if extra:
        return _not_installed(extra)
    if group:
        names = [*option_names(group[1]), *(["the index of a CUDA device"] if group[1] == "gpu" else [])]
        return f"unknown {group[1]} '{group[2]}'; known are {', '.join(names)}"
    reason = " ".join([line.strip() for line in text.splitlines() if line.strip()][:2])
    merged = reason.removeprefix("Error merging override ")
    if merged == reason:
        return reason
    # Only the innermost error says what is wrong with the value, and which values are possible.
    cause: BaseException = error
    while cause.__cause__:
        cause = cause.__cause__
    key, _, value = merged.partition("=")
    if "is not a ListConfig" in str(cause):
        return f"{merged} is impossible: a list is written {key}=[{value}]"
    reason = str(cause).splitlines()[0]
    return f"{merged}: {next((must for said, must in _MUST_BE.items() if said in reason), reason)}"


def explain_launcher(launcher: str, error: Exception, folder: Path) -> str:
    """One line about an error of a launcher; the whole traceback is written to the sweep's folder."""
    log = folder / "launcher.log"
    with suppress(OSError):
        log.write_text("".join(traceback.format_exception(error)), "utf-8")
    if isinstance(error, ImportError) and launcher in _PLUGINS:
        return f"hydra/launcher={launcher}: {error}; {_not_installed(_PLUGINS[launcher][1])} - log: {log}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Programs that a launcher calls print several lines; the last error is the reason.
    reason = next((line for line in reversed(lines) if re.search(r"\b(error|fatal)\b", line, re.I)), lines[0])
    check = _LAUNCHER_CHECKS.get(launcher)
    return (
        f"hydra/launcher={launcher} failed: {reason.rstrip('.')}{f'; {check}' if check else ''} - log: {log}"
    )


def _not_installed(extra: str) -> str:
    return f"this launcher is not installed: .venv/bin/python -m pip install -e '.[{extra}]'"


def _known_keys(schema: Any, above: str = "") -> list[str]:
    keys: list[str] = []
    for item in fields(schema):
        keys.append(f"{above}{item.name}")
        if is_dataclass(item.type):
            keys += _known_keys(item.type, f"{above}{item.name}.")
    return keys
