"""Folders of runs, from this or other machines, to findings with labels."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.analysis.findings import Findings
from bench.analysis.parallel import in_parallel
from bench.analysis.run import Run, name_of_run, read_run
from bench.errors import ConfigError, OutputError
from bench.identity import WEIGHTS, hash_of
from bench.records import FILE_NAME, READABLE_VERSIONS


def load_runs(paths: Sequence[Path], runs_dir: Path | None = None) -> list[Findings]:
    """Finished runs with labels, wherever they lie.

    Args:
        paths: folders, in any order: labels and order of the result do not depend on it.
        runs_dir: where runs are kept, for the name that a run goes by; None takes that of its folder.

    Raises:
        ConfigError: no run is named, or one twice.
        OutputError: a folder is not a run, is unfinished, or another version wrote it.
    """
    return label_runs(read_finished(paths), runs_dir)


def read_finished(paths: Sequence[Path]) -> list[Run]:
    """Finished runs in the order they are named; a folder that only holds runs stands for all of them.

    Raises:
        ConfigError: no run is named, or one twice.
        OutputError: a folder is not a run, is unfinished, or another version wrote it.
    """
    folders = expanded(paths)
    if not folders:
        raise ConfigError("no run is named: name folders, as in runs=[results/runs/A,results/runs/B]")
    _refuse_doubles(folders)
    return in_parallel([partial(_read_finished, folder) for folder in folders])


def label_runs(runs: Iterable[Run], runs_dir: Path | None = None) -> list[Findings]:
    """Labels every run by its device; sorted by label, then by domains and start.

    Equal hardware that measured the same domain of the same case again gets "#2", in the order of starting.

    Args:
        runs: in any order.
        runs_dir: as in `load_runs`.
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
        Findings(labels[identity] + ("" if place == 0 else f" #{place + 1}"), run, _name(runs_dir, run))
        for identity, same in by_identity.items()
        for place, slot in enumerate(_slots(same))
        for run in slot
    ]
    return sorted(labelled, key=lambda item: (item.label, sorted(item.run.decodes), _age(item.run)))


def _name(runs_dir: Path | None, run: Run) -> str:
    return run.folder.name if runs_dir is None else name_of_run(runs_dir, run.folder)


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


def expanded(paths: Iterable[Path]) -> list[Path]:
    """Folders of runs; one that only holds runs stands for all of them."""
    return [folder for path in paths for folder in _expanded(path)]


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
    if schema not in READABLE_VERSIONS:
        raise OutputError(
            f"{folder} was written with record schema {schema}, this version reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; "
            "measure it again, or read it with the version that its environment.json names"
        )


# What must be equal for two runs to be comparable, and names for what is.

_FINGERPRINT_CHARS = 6


@dataclass(frozen=True)
class Case:
    """The work that was measured; runs of different cases never stand side by side.

    Attributes:
        pair: its name.
        dtype: of weights and arithmetic.
        target: fingerprint of the target; None where the run does not say.
        draft: fingerprint of the draft; None where the run does not say.
        other_files: hash of everything else that target and draft are made of, such as tokenizer and chat
            template; None where the run does not say.
        full_size: tokens of the untrimmed draft.
        temperature: 0 is greedy.
        top_k: of sampling.
        top_p: of sampling.
        max_new_tokens: longest answer; None where the run does not say.
    """

    pair: str
    dtype: str
    target: str | None
    draft: str | None
    other_files: str | None
    full_size: int
    temperature: float
    top_k: int | None
    top_p: float | None
    max_new_tokens: int | None

    @classmethod
    def of(cls, run: Run) -> "Case":
        """What a run measured."""
        environment, measure = run.environment, run.config["measure"]
        return cls(
            pair=environment["pair"],
            dtype=environment["dtype"],
            target=environment.get("target_fingerprint"),
            draft=environment.get("draft_fingerprint"),
            other_files=_other_files(environment.get("identity")),
            full_size=run.full_size,
            temperature=float(measure.get("temperature") or 0),
            top_k=measure.get("top_k"),
            top_p=measure.get("top_p"),
            max_new_tokens=measure.get("max_new_tokens"),
        )

    def differences(self, other: "Case") -> list[str]:
        """In what the other is different work, in words."""
        found = []
        for item in fields(self):
            mine, its = getattr(self, item.name), getattr(other, item.name)
            if mine != its:
                texts = format_case_value(item.name, mine), format_case_value(item.name, its)
                found.append(f"{CASE_NAMES[item.name]} ({texts[0]} and {texts[1]})")
        return found


CASE_NAMES = {
    "pair": "the pair",
    "dtype": "the dtype",
    "target": "the target's weights",
    "draft": "the draft's weights",
    "other_files": "tokenizer, chat template, generation settings or configuration",
    "full_size": "the draft's whole vocabulary",
    "temperature": "the temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "max_new_tokens": "the longest answer",
}


_HASHES = ("target", "draft", "other_files")


def _other_files(identity: dict[str, dict[str, Any]] | None) -> str | None:
    if not identity:
        return None
    return hash_of(
        {
            what: {name: value for name, value in parts.items() if name != WEIGHTS}
            for what, parts in identity.items()
        }
    )


def format_case_value(field: str, value: Any) -> str:
    """One value of a case as a reader takes it in."""
    if value is None:
        return "not recorded" if field in (*_HASHES, "max_new_tokens") else "off"
    if field in _HASHES:
        return str(value)[:_FINGERPRINT_CHARS]
    if field == "temperature":
        return "greedy" if value == 0 else f"{value:g}"
    if field in ("full_size", "max_new_tokens"):
        return f"{value:,} tokens"
    return str(value)


def case_labels(cases: Iterable[Case]) -> dict[Case, str]:
    """`pair, dtype` of every case, and what else tells those of the same pair and dtype apart."""
    groups: dict[str, set[Case]] = defaultdict(set)
    for case in cases:
        groups[f"{case.pair}, {case.dtype}"].add(case)
    labels = {}
    for base, group in groups.items():
        varied = [
            item.name
            for item in fields(Case)
            if item.name not in ("pair", "dtype") and len({getattr(case, item.name) for case in group}) > 1
        ]
        for case in group:
            varying = [f"{_NAMES[name]} {format_case_value(name, getattr(case, name))}" for name in varied]
            labels[case] = ", ".join([base, *varying])
    return labels


_NAMES = {
    "target": "target",
    "draft": "draft",
    "other_files": "other files",
    "full_size": "draft of",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "max_new_tokens": "answers of at most",
}


# Which device a run was measured on, and labels that keep apart what is not the same device.

_VENDORS = ("NVIDIA ", "AMD ", "Intel(R) ")

# What environment.json may call a fact, at the top or in one of its groups; the first with a value counts.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "power_limit_w": ("power_limit_w",),
    # Clocks that somebody set come before those that the board could reach.
    "sm_clock_mhz": ("application_sm_clock_mhz", "sm_clock_max_mhz"),
    "memory_clock_mhz": ("memory_clock_max_mhz",),
    "host": ("host",),
    "uuid": ("uuid",),
    "driver": ("driver",),
}


@dataclass(frozen=True)
class DeviceIdentity:
    """What makes two same-named devices different hardware; None where a run does not say.

    Attributes:
        name: as the driver reports it.
        power_limit_w: that it ran under.
        sm_clock_mhz: that was set, else the highest that it may reach.
        memory_clock_mhz: the highest that it may reach.
        host: machine.
    """

    name: str
    power_limit_w: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    host: str | None = None

    @classmethod
    def of(cls, environment: Mapping[str, Any]) -> "DeviceIdentity":
        """What `environment.json` says."""
        return cls(
            str(environment["device_name"]),
            *(
                fact(environment, name)
                for name in ("power_limit_w", "sm_clock_mhz", "memory_clock_mhz", "host")
            ),
        )


def fact(environment: Mapping[str, Any], name: str) -> Any:
    """One fact of the device from `environment.json`; None where it does not say.

    Args:
        environment: the file.
        name: `power_limit_w`, `sm_clock_mhz`, `memory_clock_mhz`, `host`, `uuid` or `driver`.
    """
    groups = [environment, *(group for group in environment.values() if isinstance(group, Mapping))]
    found = (group.get(key) for key in _KEYS[name] for group in groups)
    return next((value for value in found if value is not None), None)


# What is said of a device, in this order, until no two of the same name are left.
_QUALIFIERS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("power_limit_w", lambda value: "power limit unknown" if value is None else f"{value:.0f} W"),
    ("sm_clock_mhz", lambda value: "clock unknown" if value is None else f"{value:.0f} MHz"),
    ("memory_clock_mhz", lambda v: "memory clock unknown" if v is None else f"memory {v:.0f} MHz"),
    ("host", lambda value: "host unknown" if value is None else f"on {value}"),
)


def device_labels(identities: Iterable[DeviceIdentity]) -> dict[DeviceIdentity, str]:
    """A short name of every device; what same-named devices differ in is added, and nothing else.

    The labels depend on which devices there are, not on their order.
    """
    labels = {}
    by_name: dict[str, set[DeviceIdentity]] = defaultdict(set)
    for identity in identities:
        by_name[_short(identity.name)].add(identity)
    for name, same_named in by_name.items():
        for identity, differing in _set_apart(same_named, 0).items():
            labels[identity] = f"{name} ({', '.join(differing)})" if differing else name
    return labels


def _set_apart(group: set[DeviceIdentity], place: int) -> dict[DeviceIdentity, list[str]]:
    if len(group) == 1 or place == len(_QUALIFIERS):
        return {identity: [] for identity in group}
    field, form = _QUALIFIERS[place]
    parts: dict[Any, set[DeviceIdentity]] = defaultdict(set)
    for identity in group:
        parts[getattr(identity, field)].add(identity)
    if len(parts) == 1:
        return _set_apart(group, place + 1)
    return {
        identity: [form(value), *others]
        for value, part in parts.items()
        for identity, others in _set_apart(part, place + 1).items()
    }


def _short(name: str) -> str:
    for vendor in _VENDORS:
        name = name.removeprefix(vendor)
    return name
