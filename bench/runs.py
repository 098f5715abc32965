"""One run, start to end: a pair on one device, over one domain or a set of them."""

import math
import os
import socket
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from rich.console import Console

from bench.config import Config, DomainSource
from bench.decoding.sampling import Sampler
from bench.device import Device, open_device
from bench.device.graphs import executions
from bench.device.lock import hold_device, physical_id
from bench.domains import Prompt, load_prompts
from bench.environment import data_ids, describe_run, measured_hardware, now
from bench.errors import FailedCasesError, OutputError
from bench.job_notes import note_run
from bench.measure.campaign import Campaign
from bench.measure.cases import Workload
from bench.measure.rig import Rig
from bench.pair import Pair, load_pair
from bench.progress import BASELINE_SHARE, ENERGY_SHARE, ISOLATED_SHARE, run_bar
from bench.records import EndRecord, FailureRecord, Record, RecordWriter, SessionRecord
from bench.records.cases import Done
from bench.run_folder import RunFolder, check_writable, note_hardware, note_telemetry, open_run, point_latest
from bench.telemetry.watch import Watch, check_telemetry, watch
from bench.telemetry.windows import long_enough_s
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

_ISOLATED, _BASELINE = "timing parts on their own", "comparing with generate"


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
        texts = {source.name: load_prompts(source) for source in sources}
    with console.status("loading the models"):
        pair = load_pair(config.pair, device, config.dtype)
    sizes = check_sizes(pair, config.vocab, config.measure)
    rankings = _rank(config, pair, texts, console)
    workloads = [_workload(config, pair, s, texts[s.name], rankings) for s in config.domain.sources()]
    _say_what_lacks(config, workloads, console)
    with open_run(config, describe_run(pair, device, data)) as run:
        note_run(run.path)
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
        pair.draft.draft,
        pair.draft.head(pair.draft.vocab),
        measure.max_new_tokens,
        measure.seed,
        sampler,
    )
    campaign = Campaign(rig, pair.draft, measure, done)
    steady_s = config.telemetry.steady_s if seen.tells_energy else 0.0
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
