"""One run, start to end: a pair on one device, over one domain or a set of them."""

import json
import os
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.config import Config, DomainSource
from bench.decoding.sampling import Sampler
from bench.device import Device, open_device
from bench.device.lock import hold_device, physical_id
from bench.domains import Prompt, load_prompts
from bench.environment import describe
from bench.errors import DeviceError, OutputError
from bench.measure.campaign import Campaign, Workload
from bench.measure.rig import Rig
from bench.measure.standalone import compare_with_generate
from bench.pair import Pair, load_pair
from bench.records import RecordWriter
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
            f"interrupted; the {num_records} records measured so far are in {folder} - "
            f'make report ARGS="run={folder}" draws them'
        )


def run_bench(config: Config, console: Console) -> Path:
    """Measures while no other run does on this device, writes the run's folder and draws its report.

    Returns:
        The run's folder.

    Raises:
        BenchError: anything the user can mend.
        InterruptedRunError: Ctrl-C after the first measurement.
    """
    if config.measure.num_threads:
        torch.set_num_threads(config.measure.num_threads)
    with hold_device(physical_id(config.gpu.device), console.print):
        return _run_alone(config, console)


def _run_alone(config: Config, console: Console) -> Path:
    device = open_device(config.gpu.device)
    pattern = config.gpu.name_pattern
    if pattern and not re.fullmatch(pattern, device.name):
        raise DeviceError(
            f"the gpu asked for is a {pattern}, but {config.gpu.device} is a {device.name}; use gpu=auto"
        )
    folder = _make_folder(config, device)
    try:
        with console.status("fetching the domains"):
            texts = {s.name: load_prompts(s) for s in [*config.domain.sources(), *config.corpora.values()]}
        with console.status("loading the models"):
            pair = load_pair(config.pair, device, config.dtype)
        sizes = check_sizes(pair, config.vocab, config.measure)
        rankings = _rank(config, pair, texts, console)
        workloads = [_workload(config, pair, s, texts[s.name], rankings) for s in config.domain.sources()]
        _say_what_lacks(config, workloads, console)
    except BaseException:
        folder.rmdir()
        raise
    try:
        _describe_run(folder, config, device, pair)
    except OSError as error:
        raise OutputError(f"cannot write into {folder}: {error.strerror}; set results_dir") from error
    writer = RecordWriter(folder)
    try:
        for ranking in rankings.values():
            writer.append(ranking.record(len(must_keep(pair)), pair.target.vocab_size))
        _measure_all(config, device, pair, workloads, sizes, writer, console)
    except KeyboardInterrupt:
        raise InterruptedRunError(folder, writer.num_written) from None
    finally:
        writer.close()
    _point_latest(folder)
    # Imported late: drawing brings in seconds of libraries that measuring does not need.
    from bench.report.render import render

    render(folder, console)
    return folder


def _measure_all(
    config: Config,
    device: Device,
    pair: Pair,
    workloads: list[Workload],
    sizes: list[int],
    writer: RecordWriter,
    console: Console,
) -> None:
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
    campaign = Campaign(rig, pair.draft, measure)
    with _progress(console) as progress:
        bar = progress.add_task("warming up", total=sum(campaign.num_steps(w, sizes) for w in workloads))
        for workload in workloads:
            progress.update(bar, description=f"measuring {workload.domain}")
            for record in campaign.run(workload, sizes):
                writer.append(record)
                progress.advance(bar)
        if config.timing.isolated:
            # What parts cost on their own does not depend on the domain.
            progress.update(bar, description="timing parts on their own", completed=progress.tasks[bar].total)
            for isolated in campaign.isolate(workloads[0], sizes, config.timing):
                writer.append(isolated)
        # How fast the plain loop is does not depend on the domain.
        first = workloads[0]
        progress.update(bar, description="comparing with generate", completed=progress.tasks[bar].total)
        writer.append(compare_with_generate(rig, first.domain, first.prompts[0]))


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


def _make_folder(config: Config, device: Device) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    kind = str(device.torch_device).replace(":", "")
    name = f"{stamp}-{config.pair.name}-{config.domain.name}-{kind}"
    for attempt in range(100):
        folder = config.runs_dir / (name if not attempt else f"{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(
                f"cannot write into {config.runs_dir}: {error.strerror}; "
                "set results_dir to a folder that you can write"
            ) from error
    raise OutputError(f"{config.runs_dir} already holds a hundred runs of this second")


def _describe_run(folder: Path, config: Config, device: Device, pair: Pair) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(_plain(asdict(config)), sort_keys=False), "utf-8")
    environment = {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "pair": pair.name,
        "dtype": str(pair.dtype).removeprefix("torch."),
        "target_runner": pair.target.runner,
        "num_packed_linears": pair.target.num_packed,
        "target_fingerprint": pair.target_fingerprint,
        "draft_fingerprint": pair.draft_fingerprint,
        "full_vocab_size": len(pair.draft.vocab),
        **describe(device),
    }
    (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", "utf-8")


def _plain(value):
    """Enums by name, so that the YAML is what a user would write."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.name if hasattr(value, "name") and hasattr(value, "value") else value


def _point_latest(folder: Path) -> None:
    """`latest` names the newest run: a link where the file system has links, else a text file."""
    link, temporary = folder.parent / "latest", folder.parent / f".latest-{os.getpid()}"
    try:
        temporary.symlink_to(folder.name)
        temporary.replace(link)
    except OSError:
        temporary.unlink(missing_ok=True)
        link.with_suffix(".txt").write_text(folder.name + "\n", "utf-8")
