"""Claims: every headline of a report with what it rests on, to be recomputed from the records by anybody.

`claim.json` names the records by sha256 and holds, for each headline, figure, interval, numbers of prompts,
blocks and processes, and the conditions with their limits. Figures have `_DIGITS` significant digits: what
intervals are made of is in single precision, so that further digits may differ from processor to processor.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from os.path import relpath
from pathlib import Path
from typing import Any

from bench import __version__
from bench.analysis.figures import OVER_FULL, OVER_FULL_BEST, OVER_PLAIN, Gain
from bench.analysis.findings import Findings
from bench.analysis.metrics import format_estimate
from bench.analysis.run import read_run
from bench.analysis.surfaces import baselines
from bench.analysis.verdict import Answer
from bench.assets import sha256_of
from bench.errors import BenchError, ConfigError, OutputError
from bench.records import FILE_NAME as RECORDS
from bench.surface.pace import Pace
from bench.telemetry.samples import FILE_NAME as TELEMETRY

FILE_NAME, _TOOL = "claim.json", "vocabtrim-bench"

# Of the way in which headlines are computed; a change that moves any figure of a claim raises it.
METHOD = 7

_DIGITS = 7

# What a headline is computed from.
_FILES = (RECORDS, "environment.json", "config.yaml", TELEMETRY)

_PACE = [field.name for field in fields(Pace)]

_DEEPEST = 3  # folders below that of the claim in which records are looked for


class RefusedClaimError(BenchError):
    """A claim is not what its records say."""

    exit_code = 1


def claims_of(runs: Sequence[Findings], folder: Path) -> dict[str, Any]:
    """The content of the `claim.json` of a report.

    Args:
        runs: that the report is of.
        folder: that the file is written to; runs are named relative to it.
    """
    content = {
        "tool": _TOOL,
        "version": __version__,
        "method": METHOD,
        "runs": [
            {
                "folder": relpath(run.run.folder.resolve(), folder.resolve()),
                "sha256": _hashes(run.run.folder),
                "headlines": _headlines(run),
            }
            for run in runs
        ],
    }
    return {**content, "sha256": _seal(content)}


def write_claims(runs: Sequence[Findings], folder: Path) -> None:
    """Writes `claim.json` into the folder of a report."""
    content = json.dumps(claims_of(runs, folder), indent=2, ensure_ascii=False)
    temporary = folder / f".{FILE_NAME}.partial"
    temporary.write_text(content + "\n", "utf-8")
    temporary.replace(folder / FILE_NAME)


def verify(path: Path) -> list[str]:
    """Recomputes every headline of a claim from the records behind it.

    Args:
        path: of a `claim.json`, or of the folder that holds it.

    Returns:
        One line per headline with its figures, and that they are verified.

    Raises:
        ConfigError: there is no claim there.
        OutputError: its run is not there or cannot be read, or another version computed it another way.
        RefusedClaimError: records or claim were changed.
    """
    path = path / FILE_NAME if path.is_dir() else path
    claim = _read(path)
    if claim["method"] != METHOD:
        raise OutputError(
            f"{path} was computed by method {claim['method']} of version {claim['version']}; here are method "
            f"{METHOD} and version {__version__}: verify it with the program that wrote it, or write another "
            f'by make report ARGS="run={path.parent}"'
        )
    lines: list[str] = []
    for number, item in enumerate(claim["runs"]):
        found = Findings.of(read_run(_find(path, item)))
        now, then = _headlines(found), item["headlines"]
        for where, claimed, computed in _differences(then, now, f"runs[{number}].headlines"):
            raise RefusedClaimError(f"{path}: {where} is claimed to be {claimed}, the records say {computed}")
        lines += [headline["sentence"] for headline in now]
    if claim.get("sha256") != _seal(claim):
        raise RefusedClaimError(f"{path} was changed: its own sha256 is not that of its content")
    of_version = "" if claim["version"] == __version__ else f", made by version {claim['version']}"
    return [*lines, f"verified: {len(lines)} headlines of {path} follow from its records{of_version}"]


def pace_of(folder: Path) -> dict[str, float | None] | None:
    """The pace at which the gains of a run hold, by name; None if it is unknown or a gain is INVALID."""
    try:
        (run,) = _read(folder / FILE_NAME)["runs"]
        gains = [line for line in run["headlines"] if line["figure"] in (OVER_FULL, OVER_FULL_BEST)]
        is_valid = bool(gains) and all(line["is_valid"] for line in gains)
        is_known = is_valid and gains[0]["whole_head_ms"] is not None
        return {name: gains[0][name] for name in _PACE} if is_known else None
    except (ConfigError, KeyError, TypeError, ValueError):
        return None


def _seal(claim: dict[str, Any]) -> str:
    """Hash of everything else in a claim: a digit that was changed by accident anywhere is noticed."""
    content = {name: value for name, value in claim.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        claim = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"claim={path} cannot be read: {error.strerror}; name a claim.json") from error
    except ValueError as error:
        raise ConfigError(f"claim={path} is not JSON ({error}); name a claim.json") from error
    try:
        is_claim = claim["tool"] == _TOOL and isinstance(claim["version"], str)
        is_claim = is_claim and isinstance(claim["method"], int) and len(claim["runs"]) > 0
        for item in claim["runs"]:
            is_claim = is_claim and isinstance(item["folder"], str) and isinstance(item["headlines"], list)
            is_claim = is_claim and isinstance(item["sha256"][RECORDS], str)
    except (KeyError, TypeError):
        is_claim = False
    if not is_claim:
        raise ConfigError(f"claim={path} is no claim of this program: name the claim.json of a report")
    return claim


def _find(path: Path, item: dict[str, Any]) -> Path:
    """The folder of a run: where the claim says, or beside it, known by the hash of its records."""
    wanted, there = item["sha256"], []
    for folder in _candidates(path.parent, item["folder"]):
        there.append(folder)
        if _sha256(folder / RECORDS) == wanted[RECORDS]:
            for name in sorted({*wanted, *_hashes(folder)}):
                if _sha256(folder / name) != wanted.get(name):
                    raise RefusedClaimError(_other_file(folder / name))
            return folder
    if not there:
        raise OutputError(
            f"{path}: its run is neither in {path.parent / item['folder']} nor below {path.parent}; put the "
            "folder of the run beside the claim"
        )
    raise RefusedClaimError(_other_file(there[0] / RECORDS))


def _other_file(path: Path) -> str:
    if not path.exists():
        return f"{path} is missing; the claim was made from it: copy the whole folder of the run"
    return f"{path} is not the file that the claim was made from: its sha256 differs"


def _candidates(beside: Path, named: str) -> Iterator[Path]:
    folders = [beside / named, beside]
    for depth in range(1, _DEEPEST + 1):
        folders += sorted(found.parent for found in beside.glob("*/" * depth + RECORDS))
    yield from dict.fromkeys(folder.resolve() for folder in folders if (folder / RECORDS).is_file())


def _hashes(folder: Path) -> dict[str, str]:
    found = {name: _sha256(folder / name) for name in _FILES}
    return {name: digest for name, digest in found.items() if digest is not None}


def _sha256(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


def _headlines(found: Findings) -> list[dict[str, Any]]:
    return [
        _headline(found, answer, figure, gain)
        for answer in found.answers
        for figure, gain in answer.gains.items()
    ]


def _headline(found: Findings, answer: Answer, figure: str, gain: Gain) -> dict[str, Any]:
    surface, pace = found.surface(answer.domain), found.surfaces.pace(answer.domain)
    plain, full, best = baselines(found.run, answer.domain)
    value, estimate, is_valid = gain.estimate.value, gain.estimate, answer.is_valid(figure)
    ends = [_rounded(estimate.ci_low), _rounded(estimate.ci_high)]
    base = {OVER_FULL: full, OVER_FULL_BEST: answer.full_best or full, OVER_PLAIN: plain}[figure]
    over = "plain decoding" if base.is_plain else f"the full vocabulary, gamma = {base.draft_length}"
    return {
        "domain": answer.domain,
        "figure": figure,
        "sentence": (
            f"{answer.domain}: k = {best.vocab_size:,}, gamma = {best.draft_length} is "
            f"{format_estimate('speedup_vs_full', estimate)} as fast as {over}"
            + ("" if is_valid else " (INVALID)")
        ),
        "verdict": answer.decision.value,
        "is_valid": is_valid,
        "variant": best.columns,
        "over": base.columns,
        **{name: _rounded(getattr(pace, name)) if pace else None for name in _PACE},
        "value": _rounded(value),
        "interval_95": ends,
        "num_prompts": len(surface.prompt_left_out),
        "num_blocks": len(surface.block_left_out),
        "num_processes": found.run.num_processes(answer.domain),
        "num_prompts_decoded": answer.num_prompts,
        "conditions": [
            {
                "name": item.name,
                "value": _rounded(item.value),
                "limit": item.limit,
                "is_exceeded": item.is_exceeded,
                "what": item.what,
            }
            for item in answer.conditions
            if figure in item.touches
        ],
    }


def _rounded(value: float | None) -> float | None:
    """To `_DIGITS` significant digits; None for what is not known, or has no end."""
    if value is None or not abs(value) < float("inf"):
        return None
    return float(f"{value:.{_DIGITS - 1}e}")


def _differences(then: Any, now: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Where a claim and what was computed differ: the place, and both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*now, *then]):
            yield from _differences(then.get(name), now.get(name), f"{where}.{name}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for place, (a, b) in enumerate(zip(then, now, strict=True)):
            yield from _differences(a, b, f"{where}[{place}]")
    elif type(then) is not type(now) or then != now:
        yield where, json.dumps(then), json.dumps(now)
