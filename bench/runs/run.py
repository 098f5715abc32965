"""One run, start to end: a pair on one device, over one domain or a set of them."""

import math
import os
import socket
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.analysis.coverage_table import read_coverage
from bench.assets import notice_of
from bench.config import Config, DomainSource
from bench.cost.config_json import read_config
from bench.cost.shape import DraftShape
from bench.decoding.rules import Sampler
from bench.device import Device, open_device
from bench.device.graphs import executions
from bench.device.lock import hold_device, physical_id
from bench.errors import BenchError, ConfigError, FailedCasesError, OutputError
from bench.measure.attempts import attempt
from bench.measure.campaign import Campaign
from bench.measure.parts import draft_parts, time_parts
from bench.measure.timing import timer_facts
from bench.measure.workload import Rig, Workload
from bench.models.checkpoint import load_draft, resolve_lone_draft
from bench.models.draft import Draft, DraftHead, Placement
from bench.records import (
    CoverageRecord,
    EndRecord,
    FailureRecord,
    IsolatedRecord,
    RankingRecord,
    Record,
    RecordWriter,
    SessionRecord,
)
from bench.records.kinds import Done
from bench.report.tasks import render_draft
from bench.runs.environment import data_ids, describe, describe_run, known_hardware, measured_hardware, now
from bench.runs.folder import RunFolder, check_writable, note_hardware, note_telemetry, open_run, point_latest
from bench.runs.pair import Pair, dtype_of, fingerprint_of, load_pair
from bench.runs.progress import BASELINE_SHARE, ENERGY_SHARE, ISOLATED_SHARE, run_bar
from bench.runs.workloads import (
    Ranking,
    check_sizes,
    count_answers,
    held_out_prompts,
    make_rankings,
    num_kept,
    paper_size,
    possible_sizes,
    source_for,
)
from bench.sweep import note_run
from bench.telemetry.watch import Watch, check_telemetry, watch
from bench.telemetry.windows import long_enough_s
from bench.text import OddRows, Prompt, load_prompts

_ISOLATED, _BASELINE = "timing parts on their own", "comparing with generate"


class InterruptedRunError(BenchError):
    """The user stopped the run; what was measured is kept."""

    exit_code = 130

    def __init__(self, folder: Path, num_records: int):
        super().__init__(
            f"interrupted; the {num_records} records measured so far are in {folder} - the same command goes "
            f'on from there, make report ARGS="run={folder}" draws them'
        )


def run_bench(config: Config, console: Console) -> Path:
    """Measures while no other run does on this device, writes the run's folder and draws its report.

    An unfinished run of the same configuration, device and models is gone on with.

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


@contextmanager
def alone(config: Config, console: Console) -> Iterator[None]:
    """While no other run measures on this device, with as many threads as were asked for.

    Raises:
        DeviceError: telemetry is required of a device that has none.
    """
    if config.measure.num_threads:
        torch.set_num_threads(config.measure.num_threads)
    device_id = physical_id(config.gpu.device)
    check_telemetry(config.telemetry, is_on_cpu=device_id == "cpu")
    # A holder's command line is no markup, though `sizes=[full,1024]` looks like it.
    with hold_device(device_id, console.out):
        yield


def _run_alone(config: Config, console: Console) -> Path:
    device = open_device(config.gpu.device, config.gpu.name_pattern)
    if config.timing.isolated:
        executions(device, config.timing.execution)  # refuses what this device cannot do
    check_writable(config.runs_dir)
    sources = [*config.domain.sources(), *config.corpora.values()]
    with console.status("fetching the domains"):
        data = data_ids(sources)
        odd = {source.name: OddRows() for source in sources}
        texts = {source.name: load_prompts(source, odd[source.name]) for source in sources}
    with console.status("loading the models"):
        pair = load_pair(config.pair, device, config.dtype)
    sizes = check_sizes(pair, config.vocab, config.measure, partial(console.print, soft_wrap=True))
    for note in pair.draft.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    rankings = _rank(config, pair, texts, odd, console)
    workloads = [
        _workload(config, pair, source, texts[source.name], odd[source.name], rankings)
        for source in config.domain.sources()
    ]
    _say_what_lacks(config, workloads, odd, console)
    rows = {name: of_domain.as_dict() for name, of_domain in odd.items()}
    with open_run(config, {**describe_run(pair, device, data), "rows": rows}) as run:
        note_run(run.path)
        if run.earlier:
            say_what_is_there(run, console)
        with watch(config.telemetry, device.uuid, run.path) as seen:
            note_telemetry(run.path, seen)
            failures = _measure(config, device, pair, rankings, workloads, sizes, run, seen, console)
    point_latest(run.path)
    # Imported late: drawing brings in seconds of libraries that measuring does not need.
    from bench.analysis.verdict import failure_fact
    from bench.report.tasks import render, show_failures

    try:
        render(run.path, console)
    except OutputError:
        # After failures there may be nothing to compare; that they were is what the user must know.
        if not failures:
            raise
    if failures:
        show_failures([failure_fact(failure) for failure in failures], console)
        raise FailedCasesError(
            f"{len(failures)} cases could not be measured (listed above); the same command tries them again"
        )
    return run.path


def _measure(
    config: Config,
    device: Device,
    pair: Pair,
    rankings: dict[str, Ranking],
    workloads: list[Workload],
    sizes: list[int],
    run: RunFolder,
    seen: Watch,
    console: Console,
) -> list[FailureRecord]:
    """Records everything that earlier sessions have not; returns what failed."""
    writer, done, failures = RecordWriter(run.path), Done(run.earlier), []
    try:
        writer.append(SessionRecord(now(), socket.gethostname(), os.getpid()))
        for name, ranking in rankings.items():
            if not done.has(RankingRecord.case_of(name)):
                writer.append(ranking.record(num_kept(pair), pair.target.vocab_size))
        with closing(_measure_all(config, device, pair, workloads, sizes, done, seen, console)) as records:
            for record in records:
                writer.append(record)
                failures += [record] if isinstance(record, FailureRecord) and record.was_asked_for else []
        # Last, so that the first measurement need not wait for it.
        note_hardware(run.path, lambda: measured_hardware(device, pair.dtype))
        if not failures:
            writer.append(EndRecord(now()))
    except KeyboardInterrupt:
        raise InterruptedRunError(run.path, len(run.earlier) + writer.num_written) from None
    finally:
        writer.close()
    return failures


def _measure_all(
    config: Config,
    device: Device,
    pair: Pair,
    workloads: list[Workload],
    sizes: list[int],
    done: Done,
    seen: Watch,
    console: Console,
) -> Generator[Record, None, None]:
    measure = config.measure
    sampler = Sampler(measure.temperature, measure.top_k, measure.top_p) if measure.temperature else None
    rig = Rig(
        device,
        pair.target,
        pair.draft,
        pair.draft.full_head(),
        measure.max_new_tokens,
        measure.seed,
        sampler,
    )
    campaign = Campaign(rig, measure, done)
    steady_s = config.telemetry.steady_s if seen.has_energy else 0.0
    num_steps = {workload.domain: campaign.num_steps(workload, sizes) for workload in workloads}
    stages = _stages(num_steps, bool(steady_s), config.timing.isolated)
    with run_bar(console, stages, done.num_records) as bar:
        for workload in workloads:
            yield from bar.follow(f"measuring {workload.domain}", campaign.run(workload, sizes))
            if steady_s:
                least_s = long_enough_s(config.telemetry.interval_ms / 1e3)
                # The counters of a CPU are quick, and its decodes may well be long enough for them.
                enough_s = least_s if seen.cpu_energy else math.inf
                steady = campaign.run_steadily(workload, max(steady_s, least_s), enough_s)
                yield from bar.follow(f"{workload.domain}: energy", steady)
        if config.timing.isolated:
            # What parts cost on their own does not depend on the domain.
            isolated = campaign.isolate(workloads[0], sizes, config.timing)
            yield from bar.follow(_ISOLATED, isolated)
        # How fast the plain loop is does not depend on the domain.
        yield from bar.follow(_BASELINE, campaign.compare_with_generate(workloads[0]))


def _stages(num_steps: dict[str, int], with_energy: bool, isolated: bool) -> dict[str, float]:
    """What a run does one after the other, and its steps of the progress bar."""
    stages: dict[str, float] = {}
    for domain, steps in num_steps.items():
        stages[f"measuring {domain}"] = steps
        if with_energy:
            stages[f"{domain}: energy"] = ENERGY_SHARE * steps
    whole = sum(num_steps.values())
    if isolated:
        stages[_ISOLATED] = ISOLATED_SHARE * whole
    stages[_BASELINE] = BASELINE_SHARE * whole
    return stages


def say_what_is_there(run: RunFolder, console: Console) -> None:
    """That an unfinished run is gone on with."""
    torn = "; its last line was torn, and removed" if run.was_torn else ""
    console.print(
        f"going on with {run.path}: {len(run.earlier)} records are there{torn}. resume=false starts afresh",
        soft_wrap=True,
    )


def _rank(
    config: Config, pair: Pair, texts: dict[str, list[Prompt]], odd: dict[str, OddRows], console: Console
) -> dict[str, Ranking]:
    counts = {}
    for source in [*config.domain.sources(), *config.corpora.values()]:
        with console.status(f"ranking {source.name}") as status:

            def show(done: int, total: int, name: str = source.name, status=status) -> None:
                status.update(f"{name}: the target answers ranking prompts, {done} of {total} done (kept)")

            prompts, rows = texts[source.name], odd[source.name]
            counts[source.name] = count_answers(pair, source, prompts, config.vocab, show, rows)
    return make_rankings(pair, counts)


def _workload(
    config: Config,
    pair: Pair,
    source: DomainSource,
    prompts: list[Prompt],
    odd: OddRows,
    rankings: dict[str, Ranking],
) -> Workload:
    held_out = held_out_prompts(pair, source, prompts, config.vocab, config.measure, odd)
    ranked_on = source_for(source.name, config.vocab, rankings)
    k_star = paper_size(pair, rankings[ranked_on], config.select)
    orders = {name: ranking.order for name, ranking in rankings.items()}
    return Workload(source.name, held_out, ranked_on, orders, k_star, num_kept(pair))


def _say_what_lacks(
    config: Config, workloads: list[Workload], odd: dict[str, OddRows], console: Console
) -> None:
    for name, rows in odd.items():
        for line in rows.lines(name):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    wanted = config.measure.num_prompts
    for workload in workloads:
        if len(workload.prompts) < wanted:
            console.print(
                f"{workload.domain}: only {len(workload.prompts)} held-out prompts of the {wanted} asked for"
            )


# `task=draft`, start to end: what a step of a decoder-LM draft costs by vocabulary size, with no target.

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
        return _run_draft_alone(config, console)


def _run_draft_alone(config: Config, console: Console) -> Path:
    device = open_device(config.gpu.device, config.gpu.name_pattern)
    executions(device, config.timing.execution)  # refuses what this device cannot do
    check_writable(config.runs_dir)
    coverage = _coverage(config)
    folder, shape = _resolve(config, console)
    sizes = _sizes(config, shape, console)
    _check_context(config, folder)
    dtype = dtype_of(config.dtype, device)
    with console.status("loading the draft"):
        draft = load_draft(
            folder,
            Placement(device.torch_device, dtype, trust_remote_code=config.pair.trust_remote_code),
        )
    environment = _environment(config, device, draft, shape, folder, dtype)
    with open_run(config, environment, TASK) as run:
        note_run(run.path)
        if run.earlier:
            say_what_is_there(run, console)
        with watch(config.telemetry, device.uuid, run.path) as seen:
            note_telemetry(run.path, seen)
            with console.status(f"timing {len(sizes)} vocabulary sizes, cold and warm"):
                failures = _measure_draft(config, device, draft, sizes, coverage, run)
    point_latest(run.path)
    render_draft(run.path, console)
    if failures:
        raise FailedCasesError(
            f"{len(failures)} cases could not be measured (listed in the report); the same command tries "
            "them again"
        )
    return run.path


def _measure_draft(
    config: Config,
    device: Device,
    draft: Draft,
    sizes: list[int],
    coverage: CoverageRecord | None,
    run: RunFolder,
) -> list[FailureRecord]:
    """Records everything that earlier sessions have not; returns what failed."""
    writer, done, failures = RecordWriter(run.path), Done(run.earlier), []
    try:
        writer.append(SessionRecord(now(), socket.gethostname(), os.getpid()))
        if coverage and not done.has(CoverageRecord.case_of()):
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
    config: Config, device: Device, draft: Draft, sizes: list[int], done: Done
) -> Iterator[IsolatedRecord | FailureRecord]:
    heads: dict[int, DraftHead] = {}
    for size in sizes:
        head = attempt(("head", size), partial(draft.head_of_size, size))
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
    resolve_lone_draft(
        pair.draft, pair.draft_revision, weights=False, trust_remote_code=pair.trust_remote_code
    )
    with console.status("fetching the draft"):
        return resolve_lone_draft(pair.draft, pair.draft_revision, trust_remote_code=pair.trust_remote_code)


def _sizes(config: Config, shape: DraftShape, console: Console) -> list[int]:
    """The sizes to time, ascending, the whole vocabulary among them."""
    return possible_sizes(config.vocab, 1, shape.vocab_size, partial(console.print, soft_wrap=True))


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
    config: Config, device: Device, draft: Draft, shape: DraftShape, folder: Path, dtype: torch.dtype
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
