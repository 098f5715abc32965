"""Folders of runs, from this or other machines, to runs with labels."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from bench.compare.cases import Case
from bench.compare.devices import DeviceIdentity, device_labels, fact
from bench.errors import ConfigError, OutputError
from bench.records import FILE_NAME, SCHEMA_VERSION
from bench.report.frames import Run, read_run
from bench.report.parallel import in_parallel
from bench.report.surfaces import Surfaces


@dataclass(frozen=True)
class LabelledRun:
    """A run, and what its device is called among the others.

    Attributes:
        label: of the device; runs that share it were measured on equal hardware and never the same domain
            of the same case, so that they stand side by side as one device.
        run: what was measured.
    """

    label: str
    run: Run

    @property
    def name(self) -> str:
        """Label and run id, for sentences about this run alone."""
        return f"{self.label} [{self.run.folder.name}]"

    @cached_property
    def surfaces(self) -> Surfaces:
        """Predictions of the whole run."""
        return Surfaces(self.run)


def load_runs(paths: Sequence[Path]) -> list[LabelledRun]:
    """Finished runs with labels, wherever they lie.

    Args:
        paths: folders, in any order: labels and order of the result do not depend on it.

    Raises:
        ConfigError: no run is named, or one twice.
        OutputError: a folder is not a run, is unfinished, or another version wrote it.
    """
    return label_runs(read_finished(paths))


def read_finished(paths: Sequence[Path]) -> list[Run]:
    """Finished runs in the order they are named; a folder that only holds runs stands for all of them.

    Raises:
        ConfigError: no run is named, or one twice.
        OutputError: a folder is not a run, is unfinished, or another version wrote it.
    """
    folders = [folder for path in paths for folder in _expanded(path)]
    if not folders:
        raise ConfigError("no run is named: name folders, as in runs=[results/runs/A,results/runs/B]")
    _refuse_doubles(folders)
    return in_parallel([partial(_read_finished, folder) for folder in folders])


def label_runs(runs: Iterable[Run]) -> list[LabelledRun]:
    """Labels every run by its device; sorted by label, then by domains and start.

    Equal hardware that measured the same domain of the same case again gets "#2", in the order of starting.
    """
    by_identity: dict[DeviceIdentity, list[Run]] = defaultdict(list)
    hosts: dict[str, str | None] = {}
    for run in sorted(runs, key=_age):
        identity, uuid = DeviceIdentity.of(run.environment), fact(run.environment, "uuid")
        if uuid is not None:
            # One GPU is in one machine, although every container gives that another name.
            identity = replace(identity, host=hosts.setdefault(uuid, identity.host))
        by_identity[identity].append(run)
    labels = device_labels(by_identity)
    labelled = [
        LabelledRun(labels[identity] + ("" if place == 0 else f" #{place + 1}"), run)
        for identity, same in by_identity.items()
        for place, slot in enumerate(_slots(same))
        for run in slot
    ]
    return sorted(labelled, key=lambda item: (item.label, sorted(item.run.decodes), _age(item.run)))


def _slots(runs: list[Run]) -> list[list[Run]]:
    """Runs that stand side by side as one device: first those of one physical device, then of equal ones."""
    by_device: dict[str | None, list[list[Run]]] = defaultdict(list)
    for run in runs:
        by_device[fact(run.environment, "uuid")].append([run])
    return _packed([slot for same in by_device.values() for slot in _packed(same)])


def _packed(groups: list[list[Run]]) -> list[list[Run]]:
    """Puts each group to the first before it that has none of its work."""
    slots: list[list[Run]] = []
    for group in groups:
        for slot in slots:
            if not any(_same_work(run, other) for run in group for other in slot):
                slot += group
                break
        else:
            slots.append(list(group))
    return slots


def _same_work(left: Run, right: Run) -> bool:
    return Case.of(left) == Case.of(right) and bool(left.decodes.keys() & right.decodes.keys())


def _age(run: Run) -> tuple[str, str, str]:
    return str(run.environment.get("started_at", "")), run.folder.name, str(run.folder)


def _expanded(path: Path) -> list[Path]:
    path = path.resolve()
    if (path / FILE_NAME).exists() or not path.is_dir():
        return [path]
    inside = sorted({found.parent.resolve() for found in path.glob(f"*/{FILE_NAME}")})
    return inside or [path]


def _refuse_doubles(folders: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for folder in folders:
        content = hashlib.sha256()
        for path in (folder / FILE_NAME, folder / "environment.json"):
            content.update(path.read_bytes() if path.is_file() else str(folder).encode())
        if content.hexdigest() in seen:
            first = seen[content.hexdigest()]
            raise ConfigError(f"{folder} and {first} are the same run; name every run once")
        seen[content.hexdigest()] = folder


def _read_finished(folder: Path) -> Run:
    for name in (FILE_NAME, "environment.json", "config.yaml"):
        if not (folder / name).is_file():
            raise OutputError(f"{folder} is not a run: it has no {name}; name a folder of results/runs")
    _check_schema(folder)
    try:
        run = read_run(folder)
    except (KeyError, TypeError) as error:
        raise OutputError(f"{folder} is not a run: its environment or records lack {error}") from error
    # The comparison with `generate` is the last thing that a run measures.
    if not (run.baselines or run.has_ended or any(f.case[:1] == ["baseline"] for f in run.failures)):
        raise OutputError(
            f"{folder} is unfinished: it stopped before its last measurement; measure it again, or draw "
            f"what there is with task=report run={folder}"
        )
    return run


def _check_schema(folder: Path) -> None:
    with (folder / FILE_NAME).open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    try:
        schema = json.loads(first).get("schema")
    except (ValueError, AttributeError):
        raise OutputError(f"{folder / FILE_NAME}: its first line is not a record; is it a run?") from None
    if schema != SCHEMA_VERSION:
        raise OutputError(
            f"{folder} was written with record schema {schema}, this version reads {SCHEMA_VERSION}; "
            "measure it again, or read it with the version that its environment.json names"
        )
