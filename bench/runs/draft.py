"""`task=draft`: times a step of a draft at every vocabulary size, without a target."""

from collections.abc import Generator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.analysis.coverage_table import read_coverage
from bench.assets import notice_of
from bench.config import Config, PairConfig, TimingConfig
from bench.cost.config_json import read_config
from bench.cost.shape import DraftShape
from bench.decoding.parts import draft_parts
from bench.device import Device
from bench.device.graphs import executions
from bench.errors import ConfigError
from bench.identity import WEIGHTS, of_model
from bench.measure.attempts import attempt
from bench.measure.isolated import time_parts
from bench.measure.timing import timer_facts
from bench.models.checkpoint import load_draft, resolve_lone_draft
from bench.models.draft import Draft, DraftHead, Placement
from bench.progress import stage
from bench.records import CoverageRecord, FailureRecord, Record
from bench.records.store import Done
from bench.runs.environment import describe, known_hardware
from bench.runs.folder import check_writable, now
from bench.runs.pair import dtype_of
from bench.runs.run import Job, run_job
from bench.runs.workloads import possible_sizes

TASK = "draft"


def run_draft(config: Config, console: Console) -> Path:
    """Times a draft without a target, see `bench.runs.run.run_job`. The report fits the latency models."""
    return run_job(config, _prepare, console)


def _prepare(config: Config, device: Device, console: Console) -> Job:
    executions(device, config.timing.execution)  # refuses what this device cannot do
    check_writable(config.runs_dir)
    once: list[Record] = [] if config.draft.coverage is None else [_coverage(config.draft.coverage)]
    folder, shape = _resolve(config.pair, console)
    sizes = possible_sizes(config.vocab, 1, shape.vocab_size, partial(console.print, soft_wrap=True))
    context_length = config.draft.context_length
    _check_context(context_length, folder)
    dtype = dtype_of(config.dtype, device)
    with stage(console, "loading the draft"):
        placement = Placement(device.torch_device, dtype, trust_remote_code=config.pair.trust_remote_code)
        draft = load_draft(folder, placement)

    def measure(done: Done, *_: object) -> Generator[Record, None, None]:
        with stage(console, f"timing {len(sizes)} vocabulary sizes, cold and warm", moves=False):
            yield from _timed(device, draft, sizes, context_length, config.timing, config.measure.seed, done)

    identity = of_model(config.pair.draft, folder)
    environment = {
        "pair": config.pair.label,
        "draft_fingerprint": identity.parts[WEIGHTS],
        "identity": {"draft": dict(identity.parts)},
        **_environment(device, draft, dtype),
    }
    return Job(environment, dtype, measure, _report, once, TASK)


def _report(folder: Path, console: Console) -> None:
    from bench.report.tasks import render_draft

    render_draft(folder, console)


def _timed(
    device: Device,
    draft: Draft,
    sizes: list[int],
    context_length: int,
    timing: TimingConfig,
    seed: int,
    done: Done,
) -> Generator[Record, None, None]:
    heads: dict[int, DraftHead] = {}
    for size in sizes:
        head = attempt(("head", size), partial(draft.head_of_size, size))
        if isinstance(head, FailureRecord):
            yield head
        else:
            heads[size] = head
    parts = draft_parts(draft, heads, context_length, seed)
    yield from time_parts(device, parts, timing, seed, done)


def _resolve(pair: PairConfig, console: Console) -> tuple[Path, DraftShape]:
    """The draft's folder with weights, after a check that its configuration can be measured."""
    if notice := notice_of(pair.draft):
        console.print(notice, soft_wrap=True, highlight=False)
    resolve = partial(
        resolve_lone_draft, pair.draft, pair.draft_revision, trust_remote_code=pair.trust_remote_code
    )
    resolve(weights=False)
    with stage(console, "fetching the draft"):
        return resolve()


def _check_context(length: int, folder: Path) -> None:
    """Refuses what the latency models do not count, or what does not fit into the draft's context."""
    values = read_config(folder / "config.json")[1]
    values = values.get("text_config") or values
    for key, what in (("sliding_window", "sliding window"), ("max_position_embeddings", "longest context")):
        limit = values.get(key)
        # Qwen configurations have a window that they do not use.
        is_unused = key == "sliding_window" and values.get("use_sliding_window") is False
        if isinstance(limit, int) and not is_unused and length >= limit:
            raise ConfigError(
                f"draft.context_length={length} is impossible: the draft's {what} is {limit} tokens, with "
                f"the token of the step; use at most {limit - 1}"
            )


def _coverage(path: str) -> CoverageRecord:
    table = read_coverage(Path(path), "draft.coverage")
    return CoverageRecord(path, table.sizes.tolist(), table.coverage.tolist())


def _environment(device: Device, draft: Draft, dtype: torch.dtype) -> dict[str, Any]:
    """`environment.json`, except for the identity of the draft."""
    return {
        "started_at": now(),
        "task": TASK,
        "dtype": str(dtype).removeprefix("torch."),
        "draft_runner": draft.runner,
        "num_packed_linears": draft.num_packed,
        "has_tied_head": draft.has_tied_head,
        "logit_cap": draft.logit_cap,
        "full_vocab_size": draft.shape.vocab_size,
        **describe(device),
        "shapes": {"draft": {**asdict(draft.shape), "kind": draft.kind.value}},
        "hardware": known_hardware(device),
        "timer": asdict(timer_facts(device)),
    }
