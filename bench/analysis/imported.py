"""Results of other tools, as `task=import` recorded them, beside what this program measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.findings import Findings
from bench.analysis.settings import read_settings
from bench.analysis.surfaces import measured_tokens_per_s
from bench.errors import ConfigError, OutputError
from bench.records import ImportedRecord, read_records
from bench.surface.choice import FULL, OPTIMUM, PLAIN

SERVED_COLUMNS = [
    "run", "tool", "tool_version", "engine", "engine_version", "device", "model", "draft", "domain",
    "concurrency", "vocab_size", "draft_length", "tokens_per_s", "first_token_p50_ms", "first_token_p90_ms",
    "first_token_p99_ms", "inter_token_p50_ms", "inter_token_p90_ms", "inter_token_p99_ms", "inter_token_of",
    "mean_acceptance_length", "accepted_by_position", "num_requests", "num_failed", "num_output_tokens",
    "duration_s", "file",
]  # fmt: skip

# In the column "tool": what this program measured.
OWN_TOOL = "vocabtrim-bench"

_LONGEST = 3


@dataclass(frozen=True)
class ImportedFindings:
    """Benchmarks of served models, with `SERVED_COLUMNS`.

    Attributes:
        frame: one row for each benchmark of another tool, and for what this program decoded.
        notes: what a reader must know of single benchmarks, in sentences.
        left_out: fields of files that are not used.
    """

    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def timed(self) -> pd.DataFrame:
        """Rows of which a latency is known."""
        return self.frame[self.frame[["first_token_p50_ms", "inter_token_p50_ms"]].notna().any(axis=1)]

    @property
    def of_other_tools(self) -> pd.DataFrame:
        """Rows that were imported."""
        return self.frame[self.frame["tool"] != OWN_TOOL]


def split_imports(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Folders of `task=import`, and the others.

    Raises:
        ConfigError: a folder of imports is named twice.
    """
    imports: list[Path] = []
    others: list[Path] = []
    for folder in folders:
        try:
            environment, _ = read_settings(folder)
        except OutputError:
            # Whoever reads it says what is wrong.
            environment = {}
        (imports if environment.get("task") == "import" else others).append(folder)
    twice = next((folder for folder in imports if imports.count(folder) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice; name every run once")
    return imports, others


def imported_beside(folders: Sequence[Path], runs: Sequence[Findings]) -> ImportedFindings:
    """What other tools measured, and below it what this program measured itself.

    Args:
        folders: of `task=import`.
        runs: measured runs of the same page.

    Raises:
        OutputError: a folder cannot be read, or has no result.
        ConfigError: two folders hold the same result.
    """
    found: dict[tuple[str, int], tuple[str, ImportedRecord]] = {}
    for folder in folders:
        records = [record for record in read_records(folder) if isinstance(record, ImportedRecord)]
        if not records:
            raise OutputError(f"{folder} has no imported result; import its files again with task=import")
        for record in records:
            key = (record.file_sha256, record.index)
            if key in found:
                raise ConfigError(
                    f"{folder} and {found[key][0]} hold the same result, {record.file}; name one of them"
                )
            found[key] = (folder.name, record)
    rows = [_row(name, record) for name, record in found.values()]
    rows += [row for run in runs for row in (*_own_rows(run), *_served_rows(run))]
    records = [record for _, record in found.values()]
    return ImportedFindings(
        pd.DataFrame(rows, columns=SERVED_COLUMNS), _notes(records), _summed([r.left_out for r in records])
    )


def _row(run: str, record: ImportedRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in SERVED_COLUMNS if hasattr(record, name)}
    for at in ("p50", "p90", "p99"):
        row[f"first_token_{at}_ms"] = record.first_token_ms.get(at)
        row[f"inter_token_{at}_ms"] = record.inter_token_ms.get(at)
    return {**row, "run": run, "accepted_by_position": _joined(record.accepted_by_position)}


def _joined(rates: Sequence[float]) -> str | None:
    return " ".join(f"{rate:.3f}" for rate in rates) or None


def _own_rows(found: Findings) -> list[dict[str, Any]]:
    """Our loop, one request at a time: plain, with the full vocabulary, and as advised."""
    run, rows = found.run, []
    for domain in found.domains:
        speeds = measured_tokens_per_s(run, domain)
        for variant in dict.fromkeys(run.variant_of(domain, role) for role in (PLAIN, FULL, OPTIMUM)):
            if variant not in speeds:
                continue
            decodes = run.decodes[domain][variant]
            accepted = np.array([count for record in decodes.values() for count in record.accepted])
            rates = [float(np.mean(accepted > at)) for at in range(variant.draft_length)]
            rows.append(
                {
                    **_of_run(found, domain),
                    "engine": "own loop",
                    "concurrency": 1,
                    "vocab_size": None if variant.is_plain else variant.vocab_size,
                    "draft_length": variant.draft_length,
                    "tokens_per_s": speeds[variant],
                    "mean_acceptance_length": 1 + sum(rates) if rates else None,
                    "accepted_by_position": _joined(rates),
                    "num_requests": len(decodes),
                }
            )
    return rows


def _served_rows(found: Findings) -> list[dict[str, Any]]:
    """What this program decoded in other engines, with the run's own prompts and sampling."""
    served, rows = found.served, []
    if len(served):
        served = served[served["temperature"].isna() & served["context_tokens"].isna()]
    for values in served.to_dict("records"):
        row = {name: values.get(name) for name in SERVED_COLUMNS if name in values}
        is_plain = values["draft_length"] == 0
        own = _of_run(found, str(values["domain"]))
        rows.append(
            {**row, **own, "inter_token_of": "arrivals", **({"vocab_size": None} if is_plain else {})}
        )
    return rows


def _of_run(found: Findings, domain: str) -> dict[str, Any]:
    pair = found.run.config["pair"]
    return {
        "run": found.run.folder.name,
        "tool": OWN_TOOL,
        "device": found.label,
        "model": pair.get("target"),
        "draft": pair.get("draft"),
        "domain": domain,
    }


def _notes(records: Sequence[ImportedRecord]) -> list[str]:
    """What is said of benchmarks: once, with the files that it is true of."""
    files: dict[str, list[str]] = {}
    for record in records:
        of_user = [f"{', '.join(record.given)} as the user gave them."] if record.given else []
        unknown = [
            name.replace("_", " ")
            for name in ("engine", "device", "concurrency", "draft_length", "vocab_size")
            if getattr(record, name) is None and not (name == "vocab_size" and record.draft_length == 0)
        ]
        lacks = [f"Not known: {', '.join(unknown)}."] if unknown else []
        for text in (*record.notes, *of_user, *lacks):
            files.setdefault(text, []).append(record.file)
    return [f"{_some(names)}: {text}" for text, names in files.items()]


def _some(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _LONGEST} more" if len(names) > _LONGEST else ""
    return ", ".join(names[:_LONGEST]) + more


def _summed(lists: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))
