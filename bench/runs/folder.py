"""The folder of a run: created, found again after an interruption, used by one process at a time."""

import fcntl
import hashlib
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from bench.config import Config
from bench.errors import OutputError
from bench.records import EndRecord, Record, cut_torn_line, read_records
from bench.surface.pace import Pace
from bench.telemetry.watch import Watch

ENVIRONMENT, CONFIG, _LOCK = "environment.json", "config.yaml", ".lock"

# A run is resumed although these changed: they only say where results go and which are read.
_ELSEWHERE = (
    "results_dir",
    "run",
    "out",
    "tag",
    "task",
    "resume",
    "export",
    "predict",
    "runs",
    "diff",
    "claim",
    "imports",
    "reference",
)

# A run is only resumed if these are unchanged, because the results depend on them.
_IDENTITY = (
    "device_name", "device", "cuda", "cpu_capability", "num_threads", "packages", "code", "dtype",
    "target_fingerprint", "draft_fingerprint", "identity", "data", "task",
)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """The folder that a run writes.

    Attributes:
        path: the folder.
        earlier: records of earlier sessions of an unfinished run.
        was_torn: whether the last record was incomplete, and was removed.
        reference: the run at whose speed estimates are reported, and the pace there; None: as this run meets
            it.
    """

    path: Path
    earlier: list[Record]
    was_torn: bool = False
    reference: dict[str, Any] | None = None

    @property
    def reference_pace(self) -> Pace | None:
        """That of the reference."""
        return None if self.reference is None else Pace.read(self.reference)


def check_writable(runs_dir: Path) -> None:
    """Checks the folder before anything is loaded.

    Raises:
        OutputError: runs cannot be written there.
    """
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs_dir):
            pass
    except OSError as error:
        raise _cannot_write(runs_dir, error) from error


@contextmanager
def open_run(config: Config, environment: dict[str, Any], of: str | None = None) -> Iterator[RunFolder]:
    """The folder of the unfinished run of the same configuration, device and models, or else a new one.

    Args:
        config: the configuration of the run.
        environment: content of `environment.json`.
        of: the part of the folder's name that says what is measured; None: the domain.

    Raises:
        OutputError: the folder cannot be written, or another process writes into it.
    """
    values = plain(asdict(config))
    environment = {**environment, "signature": _signature(values, environment)}
    same = _runs_of(config.runs_dir, environment["signature"])
    unfinished = same[0] if config.resume and same and not _has_ended(same[0]) else None
    path = unfinished or make_folder(
        config.runs_dir, config.pair.label, of or config.domain.name, str(environment["device"])
    )
    with _hold(path):
        if unfinished:
            was_torn = cut_torn_line(path)
            if not config.reference:
                _amend(path, lambda environment: environment.update(reference=None))
            reference = _environment_of(path).get("reference")
            yield RunFolder(path, list(read_records(path)), was_torn, reference)
            return
        reference = _find_reference(same) if config.reference else None
        environment["reference"] = reference
        try:
            (path / CONFIG).write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
            # Written last: a folder without it has no records.
            (path / ENVIRONMENT).write_text(json.dumps(environment, indent=2) + "\n", "utf-8")
        except OSError as error:
            raise _cannot_write(path, error) from error
        yield RunFolder(path, [], reference=reference)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def note_telemetry(folder: Path, seen: Watch) -> None:
    """Adds to `environment.json` the driver's description of the GPU, or why nothing is sampled.

    If an earlier session had another description, that is kept as `earlier_telemetry`.

    Raises:
        OutputError: the file cannot be written; the folder is unchanged.
    """
    telemetry = {"gpu": seen.gpu, "why_not": seen.why_not}

    def note(environment: dict[str, Any]) -> None:
        before = environment.get("telemetry")
        if before not in (None, telemetry):
            environment["earlier_telemetry"] = [*environment.get("earlier_telemetry", []), before]
        environment["telemetry"] = telemetry

    _amend(folder, note)


def note_hardware(folder: Path, measure: Callable[[], dict[str, Any]]) -> None:
    """Adds measured peak rates of the device to `environment.json`, unless it already has peak rates.

    Raises:
        OutputError: the file cannot be written; the folder is unchanged.
    """

    def note(environment: dict[str, Any]) -> None:
        if environment.get("hardware") is None:
            environment["hardware"] = measure()

    _amend(folder, note)


def _amend(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / ENVIRONMENT
    temporary = path.with_suffix(f".{os.getpid()}.partial")
    try:
        environment = json.loads(path.read_text("utf-8"))
        change(environment)
        temporary.write_text(json.dumps(environment, indent=2) + "\n", "utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _cannot_write(folder, error) from error


def point_latest(folder: Path) -> None:
    """Makes `latest` point at the newest run: a link, or a text file on file systems without links.

    Raises:
        OutputError: neither can be written.
    """
    link, temporary = folder.parent / "latest", folder.parent / f".latest-{os.getpid()}"
    try:
        temporary.symlink_to(folder.name)
        temporary.replace(link)
    except OSError:
        try:
            temporary.unlink(missing_ok=True)
            link.with_suffix(".txt").write_text(folder.name + "\n", "utf-8")
        except OSError as error:
            raise _cannot_write(folder.parent, error) from error


def plain(value: Any) -> Any:
    """Enums by name, as a user writes them in YAML."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.name if isinstance(value, Enum) else value


def _signature(values: dict[str, Any], environment: dict[str, Any]) -> str:
    of_config = {key: value for key, value in values.items() if key not in _ELSEWHERE}
    # How a job gets its device does not affect results.
    of_config["gpu"] = {key: value for key, value in values["gpu"].items() if key not in ("slurm", "ray")}
    of_machine = {key: environment.get(key) for key in _IDENTITY}
    text = json.dumps([socket.gethostname(), of_config, of_machine], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _runs_of(runs_dir: Path, signature: str) -> list[Path]:
    """Runs with this signature, the newest first."""
    folders = sorted((path for path in runs_dir.glob("*/") if not path.is_symlink()), reverse=True)
    return [folder for folder in folders if _environment_of(folder).get("signature") == signature]


def _environment_of(folder: Path) -> dict[str, Any]:
    """Empty if it cannot be read."""
    try:
        found = json.loads((folder / ENVIRONMENT).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _find_reference(same: list[Path]) -> dict[str, Any] | None:
    """The run at whose speed another of the same question is reported; None if there is none.

    Of the runs of that question it is the earliest whose gains are valid, or the one that is the reference of
    that. Two runs then answer for the same machine, although other programs left more of its memory bandwidth
    and caches to the one than to the other.
    """
    from bench.analysis.claims import pace_of

    for folder in reversed(same):
        if (found := pace_of(folder)) is not None:
            return _environment_of(folder).get("reference") or {"run": folder.name, **found}
    return None


def _has_ended(folder: Path) -> bool:
    try:
        return any(isinstance(record, EndRecord) for record in read_records(folder))
    except OutputError:
        # A run whose records cannot be read cannot be resumed.
        return (folder / "records.jsonl").exists()


def make_folder(runs_dir: Path, pair: str, of: str, device: str) -> Path:
    """An empty folder for a new run, named after the time, what is measured, and where.

    Raises:
        OutputError: it cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    # Runs of several machines can be copied into one folder, so their names must differ.
    host = re.sub(r"[^\w-]+", "_", socket.gethostname().partition(".")[0])
    name = f"{stamp}-{pair}-{of}-{device.replace(':', '')}-{host}"
    for attempt in range(100):
        folder = runs_dir / (name if not attempt else f"{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise _cannot_write(runs_dir, error) from error
    raise OutputError(f"{runs_dir} already holds a hundred runs of this second")


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Refuses a second process. The kernel releases the lock when its holder dies."""
    path = folder / _LOCK
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise _cannot_write(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise OutputError(
                f"{folder} is being written by {holder}; wait until it ends, or start a new run with "
                "resume=false"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
        path.unlink(missing_ok=True)


def _cannot_write(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write into {folder}: {error.strerror}; set results_dir to a folder that you can write"
    )
