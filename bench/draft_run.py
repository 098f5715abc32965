"""`task=draft`, start to end: what a step of a decoder-LM draft costs by vocabulary size, with no target."""

import os
import socket
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.assets import notice_of
from bench.config import Config
from bench.cost.flops import DraftShape
from bench.device import Device, open_device
from bench.device.graphs import executions
from bench.environment import describe, known_hardware, measured_hardware, now
from bench.errors import ConfigError, FailedCasesError, VocabError
from bench.job_notes import note_run
from bench.measure.attempts import attempt
from bench.measure.draft_alone import draft_parts
from bench.measure.standalone import time_parts
from bench.measure.timer import timer_facts
from bench.model_config import read_config
from bench.models.decoder_lm import DecoderLM, load_decoder_lm, resolve_decoder_lm
from bench.models.eagle3 import DraftHead
from bench.pair import dtype_of, fingerprint_of
from bench.records import (
    CoverageRecord,
    EndRecord,
    FailureRecord,
    IsolatedRecord,
    RecordWriter,
    SessionRecord,
)
from bench.records.cases import Done
from bench.report.coverage_table import read_coverage
from bench.report.draft_page import render_draft
from bench.run_folder import RunFolder, check_writable, note_hardware, note_telemetry, open_run, point_latest
from bench.runs import InterruptedRunError, alone, say_what_is_there
from bench.telemetry.watch import watch

TASK = "draft"


def run_draft(config: Config, console: Console) -> Path:
    """Times the draft while no other run measures on this device, fits the latency models and reports.

    Returns:
        The run's folder.

    Raises:
        FailedCasesError: the run came to its end, but some cases could not be measured.
        LostDeviceError: the device failed.
        BenchError: anything the user can mend.
        InterruptedRunError: Ctrl-C after the first measurement.
    """
    with alone(config, console):
        return _run_alone(config, console)


def _run_alone(config: Config, console: Console) -> Path:
    device = open_device(config.gpu.device, config.gpu.name_pattern)
    executions(device, config.timing.execution)  # refuses what this device cannot do
    check_writable(config.runs_dir)
    coverage = _coverage(config)
    folder, shape = _resolve(config, console)
    sizes = _sizes(config, shape)
    _check_context(config, folder)
    dtype = dtype_of(config.dtype, device)
    with console.status("loading the draft"):
        draft = load_decoder_lm(folder, device.torch_device, dtype, config.pair.trust_remote_code)
    environment = _environment(config, device, draft, shape, folder, dtype)
    with open_run(config, environment, TASK) as run:
        note_run(run.path)
        if run.earlier:
            say_what_is_there(run, console)
        with watch(config.telemetry, device.uuid, run.path) as seen:
            note_telemetry(run.path, seen)
            with console.status(f"timing {len(sizes)} vocabulary sizes, cold and warm"):
                failures = _measure(config, device, draft, sizes, coverage, run)
    point_latest(run.path)
    render_draft(run.path, console)
    if failures:
        raise FailedCasesError(
            f"{len(failures)} cases could not be measured (listed in the report); the same command tries "
            "them again"
        )
    return run.path


def _measure(
    config: Config,
    device: Device,
    draft: DecoderLM,
    sizes: list[int],
    coverage: CoverageRecord | None,
    run: RunFolder,
) -> list[FailureRecord]:
    """Records everything that earlier sessions have not; returns what failed."""
    writer, done, failures = RecordWriter(run.path), Done(run.earlier), []
    try:
        writer.append(SessionRecord(now(), socket.gethostname(), os.getpid()))
        if coverage and not done.has(("coverage",)):
            writer.append(coverage)
        for record in _timed(config, device, draft, sizes, done):
            writer.append(record)
            failures += [record] if isinstance(record, FailureRecord) else []
        # Last, so that the first measurement need not wait for it.
        note_hardware(run.path, lambda: measured_hardware(device, draft.head_weight.dtype))
        if not failures:
            writer.append(EndRecord(now()))
    except KeyboardInterrupt:
        raise InterruptedRunError(run.path, len(run.earlier) + writer.num_written) from None
    finally:
        writer.close()
    return failures


def _timed(
    config: Config, device: Device, draft: DecoderLM, sizes: list[int], done: Done
) -> Iterator[IsolatedRecord | FailureRecord]:
    heads: dict[int, DraftHead] = {}
    for size in sizes:
        head = attempt(("head", size), partial(draft.head, size))
        if isinstance(head, FailureRecord):
            yield head
        else:
            heads[size] = head
    seed = config.measure.seed
    parts = draft_parts(draft, heads, config.draft.context_length, seed)
    yield from time_parts(device, parts, config.timing, seed, done)


def _resolve(config: Config, console: Console) -> tuple[Path, DraftShape]:
    """The draft's folder, with weights, once its configuration says that it can be measured."""
    pair = config.pair
    if notice := notice_of(pair.draft):
        console.print(notice, soft_wrap=True, highlight=False)
    resolve_decoder_lm(pair.draft, pair.draft_revision, weights=False)
    with console.status("fetching the draft"):
        return resolve_decoder_lm(pair.draft, pair.draft_revision)


def _sizes(config: Config, shape: DraftShape) -> list[int]:
    """The sizes to time, ascending, the whole vocabulary among them."""
    trimmed = config.vocab.trimmed_sizes()
    if trimmed and trimmed[0] > shape.vocab_size:
        raise VocabError(
            f"vocab.sizes={trimmed[0]} is impossible: the draft has {shape.vocab_size} tokens; name sizes up "
            "to that, or full"
        )
    return sorted({*trimmed, shape.vocab_size})


def _check_context(config: Config, folder: Path) -> None:
    """What is measured must be what the latency models count, and what the draft can hold."""
    path, length = folder / "config.json", config.draft.context_length
    values = read_config(path)[1]
    values = values.get("text_config") or values
    for key, what in (("sliding_window", "sliding window"), ("max_position_embeddings", "longest context")):
        limit = values.get(key)
        # Qwen names a window that it does not use.
        if not isinstance(limit, int) or (
            key == "sliding_window" and values.get("use_sliding_window") is False
        ):
            continue
        if length >= limit:
            raise ConfigError(
                f"draft.context_length={length} is impossible: the draft's {what} is {limit} tokens, the "
                f"step's own included; take at most {limit - 1}"
            )


def _coverage(config: Config) -> CoverageRecord | None:
    if config.draft.coverage is None:
        return None
    table = read_coverage(Path(config.draft.coverage), "draft.coverage")
    return CoverageRecord(config.draft.coverage, table.sizes.tolist(), table.coverage.tolist())


def _environment(
    config: Config, device: Device, draft: DecoderLM, shape: DraftShape, folder: Path, dtype: torch.dtype
) -> dict[str, Any]:
    return {
        "started_at": now(),
        "task": TASK,
        "pair": config.pair.label,
        "dtype": str(dtype).removeprefix("torch."),
        "draft_runner": draft.runner,
        "num_packed_linears": draft.num_packed,
        "has_tied_head": draft.has_tied_head,
        "logit_cap": draft.logit_cap,
        "draft_fingerprint": fingerprint_of(config.pair.draft, folder),
        "full_vocab_size": shape.vocab_size,
        **describe(device),
        "shapes": {"draft": {**asdict(shape), "kind": shape.kind.value}},
        "hardware": known_hardware(device),
        "timer": asdict(timer_facts(device)),
    }
