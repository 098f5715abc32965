"""`task=import`: results of other benchmark tools become the records of a run folder.

`make report` shows them beside measured runs. The folder is complete or not there: all files are read first.
"""

import hashlib
import json
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import yaml
from rich.console import Console

from bench import __version__
from bench.config import Config, ImportsConfig
from bench.config.select import NO_DRAFT
from bench.errors import ConfigError, ResultFileError, one_line
from bench.imported import TOOLS, Result, content_of, read_results
from bench.records import EndRecord, ImportedRecord, Record, RecordWriter, SessionRecord
from bench.runs.folder import CONFIG, ENVIRONMENT, check_writable, make_folder, now, plain

TASK = "import"

# What a user can say of a file: names of `imports`, and of the record's fields.
_KEYS = ("engine", "device", "domain", "draft", "vocab_size", "draft_length", "concurrency")


def run_import(config: Config, console: Console) -> Path:
    """Writes the records of all files into a new run folder, and says how to show them.

    Returns:
        The folder.

    Raises:
        ConfigError: no file is named, one twice, or a key contradicts a file.
        ResultFileError: a file is damaged, of another tool or version, or of requests that failed.
        OutputError: the folder cannot be written.
    """
    records = list(_records(config.imports))
    check_writable(config.runs_dir)
    engines = sorted({record.engine or "engine" for record in records})
    devices = sorted({_plain_name(record.device) for record in records if record.device})
    folder = make_folder(config.runs_dir, "+".join(engines), TASK, "+".join(devices) or "unknown")
    try:
        _write(folder, config, records)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for record in records:
        console.print(_line(record), soft_wrap=True, highlight=False, markup=False)
    for name, files in _named(records, "left_out").items():
        console.print(f"left out: {name} ({files})", soft_wrap=True, highlight=False, markup=False)
    page = f'make report RUNS="latest {folder}"'
    console.print(
        f"Records: {folder}\n{page} shows them beside the newest run",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return folder


def _records(imports: ImportsConfig) -> Iterator[ImportedRecord]:
    if not imports.files:
        raise ConfigError(
            f"imports.files is empty: name result files of {', '.join(TOOLS)}, as in imports.files=[a.json]"
        )
    seen: dict[str, str] = {}
    for name in imports.files:
        path = Path(name)
        if not path.exists():
            raise ConfigError(f"imports.files: there is no {path}")
        results = read_results(path)
        digest = hashlib.sha256(content_of(path)).hexdigest()
        if digest in seen:
            raise ConfigError(f"imports.files: {path} and {seen[digest]} are the same result; name it once")
        seen[digest] = str(path)
        for index, result in enumerate(results):
            where = f"{path}{f', benchmark {index + 1}' if len(results) > 1 else ''}"
            _refuse_failed(result, where, imports.with_failed)
            yield _record(result, where, path.name or path.resolve().name, digest, index, imports)


def _refuse_failed(result: Result, where: str, with_failed: bool) -> None:
    """Refuses what has no speed, or that of another load than was asked for."""
    why = f"; the first error: {_shortened(result.first_error)}" if result.first_error else ""
    if not result.num_requests:
        raise ResultFileError(f"{where}: no request was completed{why}")
    if not result.tokens_per_s:
        raise ResultFileError(f"{where}: no token was generated{why}")
    mend = "run it again, or take it as it is with imports.with_failed=true"
    if result.num_failed and not with_failed:
        total = result.num_requests + result.num_failed
        raise ResultFileError(f"{where}: {result.num_failed} of {total} requests failed{why}; {mend}")
    if result.is_whole is False and not with_failed:
        raise ResultFileError(f"{where}: the benchmark was stopped before its end; {mend}")


def _shortened(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= 120 else f"{line[:117]}..."


def _record(
    result: Result, where: str, file: str, digest: str, index: int, imports: ImportsConfig
) -> ImportedRecord:
    said = {item.name: getattr(result, item.name) for item in fields(Result)}
    del said["first_error"], said["is_whole"]
    given = []
    for name in _KEYS:
        value, of_file = getattr(imports, name), said.get(name)
        if value is None:
            continue
        if name == "draft" and value == NO_DRAFT:
            value = None
            if of_file or said["num_rounds"]:
                raise ConfigError(f"imports.draft={NO_DRAFT} contradicts {where}, which drafted")
            said["draft_length"] = 0
        # Names of models, GPUs and texts are spelled in many ways; numbers and engines are not.
        elif of_file is not None and of_file != value and name not in ("draft", "device", "domain"):
            raise ConfigError(f"imports.{name}={value} contradicts {where}, which says {of_file}")
        said[name] = value
        given.append(name)
    drafts = said["draft_length"]
    if drafts == 0 and said.get("vocab_size") is not None:
        raise ConfigError(f"imports.vocab_size={said['vocab_size']}: {where} is of plain decoding")
    if said["num_failed"]:
        said["notes"] = [*said["notes"], f"{said['num_failed']} requests failed."]
    if result.is_whole is False:
        said["notes"] = [*said["notes"], "The benchmark was stopped before its end."]
    return ImportedRecord(
        **{"vocab_size": None, **said}, file=file, file_sha256=digest, index=index, given=given
    )


def _write(folder: Path, config: Config, records: list[ImportedRecord]) -> None:
    environment = {
        "task": TASK,
        "started_at": now(),
        "host": socket.gethostname(),
        "packages": {"vocabtrim-bench": __version__},
        "files": {record.file: record.file_sha256 for record in records},
    }
    values = {"imports": plain(asdict(config.imports))}
    (folder / CONFIG).write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    (folder / ENVIRONMENT).write_text(json.dumps(environment, indent=2) + "\n", "utf-8")
    writer = RecordWriter(folder)
    every: list[Record] = [
        SessionRecord(now(), socket.gethostname(), os.getpid()),
        *records,
        EndRecord(now()),
    ]
    try:
        for record in every:
            writer.append(record)
    finally:
        writer.close()


def _line(record: ImportedRecord) -> str:
    """What was imported, in a line."""
    unknown = [name for name in ("engine", *_KEYS[4:]) if getattr(record, name) is None]
    if record.draft_length == 0:
        unknown = [name for name in unknown if name != "vocab_size"]
    lacks = f"; not known: {', '.join(f'imports.{name}' for name in unknown)}" if unknown else ""
    return f"{record.file} ({record.tool}): {record.tokens_per_s:,.1f} tokens/s{lacks}"


def _named(records: list[ImportedRecord], field: str) -> dict[str, str]:
    """What is said of several records, once, with their files."""
    counts: Counter[str] = Counter(name for record in records for name in getattr(record, field))
    return {
        name: f"{count} benchmarks"
        if count > 1
        else next(r.file for r in records if name in getattr(r, field))
        for name, count in counts.items()
    }


def _plain_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
