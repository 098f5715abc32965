"""One run, start to end: a pair on one device, over one domain or a set of them."""

import os
import socket
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.config import Config, DomainSource
from bench.decoding.sampling import Sampler
from bench.device import Device, open_gpu
from bench.device.lock import hold_device, physical_id
from bench.domains import Prompt, load_prompts
from bench.environment import describe_run, now
from bench.errors import FailedCasesError, OutputError
from bench.measure.campaign import Campaign, Workload
from bench.measure.rig import Rig
from bench.pair import Pair, load_pair
from bench.records import EndRecord, FailureRecord, Record, RecordWriter, SessionRecord
from bench.records.cases import Done
from bench.run_folder import RunFolder, check_writable, note_telemetry, open_run, point_latest
from bench.telemetry.watch import Watch, watch
from bench.workloads import (
    Ranking,
    check_sizes,
    count_answers,
    held_out_prompts,
    make_rankings,
    must_keep,
    paper_size,
    source_for,
)


class InterruptedRunError(Exception):
    """The user stopped the run; what was measured is kept."""

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
    if config.measure.num_threads:
        torch.set_num_threads(config.measure.num_threads)
    with hold_device(physical_id(config.gpu.device), console.print):
        return _run_alone(config, console)


def _run_alone(config: Config, console: Console) -> Path:
    device = open_gpu(config.gpu)
    check_writable(config.runs_dir)
    with console.status("fetching the domains"):
        texts = {s.name: load_prompts(s) for s in [*config.domain.sources(), *config.corpora.values()]}
    with console.status("loading the models"):
        pair = load_pair(config.pair, device, config.dtype)
    sizes = check_sizes(pair, config.vocab, config.measure)
    rankings = _rank(config, pair, texts, console)
    workloads = [_workload(config, pair, s, texts[s.name], rankings) for s in config.domain.sources()]
    _say_what_lacks(config, workloads, console)
    with open_run(config, describe_run(pair, device)) as run:
        if run.earlier:
            say_what_is_there(run, console)
        with watch(config.telemetry, device.uuid, run.path) as seen:
            note_telemetry(run.path, seen)
            failures = _measure(config, device, pair, rankings, workloads, sizes, run, seen, console)
    point_latest(run.path)
    # Imported late: drawing brings in seconds of libraries that measuring does not need.
    from bench.report.console import show_failures
    from bench.report.render import render

    try:
        render(run.path, console)
    except OutputError:
        # After failures there may be nothing to compare; that they were is what the user must know.
        if not failures:
            raise
    if failures:
        show_failures(failures, console)
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
            if not done.has(("ranking", name)):
                writer.append(ranking.record(len(must_keep(pair)), pair.target.vocab_size))
        with closing(_measure_all(config, device, pair, workloads, sizes, done, seen, console)) as records:
            for record in records:
                writer.append(record)
                failures += [record] if isinstance(record, FailureRecord) else []
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
        pair.draft.draft,
        pair.draft.head(pair.draft.vocab),
        measure.max_new_tokens,
        measure.seed,
        sampler,
    )
    campaign = Campaign(rig, pair.draft, measure, done)
    with _progress(console) as progress:
        num_steps = sum(campaign.num_steps(w, sizes) for w in workloads)
        bar = progress.add_task("warming up", total=num_steps, completed=done.num_records)
        for workload in workloads:
            progress.update(bar, description=f"measuring {workload.domain}")
            for record in campaign.run(workload, sizes):
                yield record
                progress.advance(bar)
            if seen.tells_energy and config.telemetry.steady_s:
                progress.update(bar, description=f"{workload.domain}: energy")
                yield from campaign.run_steadily(workload, config.telemetry.steady_s)
        if config.timing.isolated:
            # What parts cost on their own does not depend on the domain.
            progress.update(bar, description="timing parts on their own", completed=num_steps)
            yield from campaign.isolate(workloads[0], sizes, config.timing)
        # How fast the plain loop is does not depend on the domain.
        progress.update(bar, description="comparing with generate", completed=num_steps)
        yield from campaign.compare_with_generate(workloads[0])


def say_what_is_there(run: RunFolder, console: Console) -> None:
    """That an unfinished run is gone on with."""
    torn = "; its last line was torn, and removed" if run.was_torn else ""
    console.print(
        f"going on with {run.path}: {len(run.earlier)} records are there{torn}. resume=false starts afresh",
        soft_wrap=True,
    )


def _rank(config: Config, pair: Pair, texts: dict[str, list[Prompt]], console: Console) -> dict[str, Ranking]:
    counts = {}
    for source in [*config.domain.sources(), *config.corpora.values()]:
        with console.status(f"ranking {source.name}") as status:

            def show(done: int, total: int, name: str = source.name, status=status) -> None:
                status.update(f"{name}: the target answers ranking prompts, {done} of {total} done (kept)")

            counts[source.name] = count_answers(pair, source, texts[source.name], config.vocab, show)
    return make_rankings(pair, counts)


def _workload(
    config: Config, pair: Pair, source: DomainSource, prompts: list[Prompt], rankings: dict[str, Ranking]
) -> Workload:
    held_out = held_out_prompts(pair, source, prompts, config.vocab, config.measure)
    ranked_on = source_for(source.name, config.vocab, rankings)
    k_star = paper_size(pair, rankings[ranked_on], config.select)
    orders = {name: ranking.order for name, ranking in rankings.items()}
    return Workload(source.name, held_out, ranked_on, orders, k_star)


def _say_what_lacks(config: Config, workloads: list[Workload], console: Console) -> None:
    wanted = config.measure.num_prompts
    for workload in workloads:
        if len(workload.prompts) < wanted:
            console.print(
                f"{workload.domain}: only {len(workload.prompts)} held-out prompts of the {wanted} asked for"
            )


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)
