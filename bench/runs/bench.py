"""`task=bench`: measures a pair on one device, for one domain or several."""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.config import Config, DomainSource, MeasureConfig, TelemetryConfig, VocabConfig
from bench.decoding.rules import Sampler
from bench.decoding.torch_engine import TorchEngine
from bench.device import Device
from bench.device.graphs import executions
from bench.measure.attempts import attempt
from bench.measure.campaign import PROVING, Campaign
from bench.measure.launches import LaunchFacts, launch_facts
from bench.measure.workload import Workload
from bench.progress import stage
from bench.records import FailureRecord, Record
from bench.records.store import Done
from bench.runs.environment import data_ids, describe_run
from bench.runs.folder import check_writable
from bench.runs.pair import Pair, load_pair, open_engine
from bench.runs.progress import BASELINE_SHARE, ENERGY_SHARE, ISOLATED_SHARE, PROVING_WEIGHT, run_bar
from bench.runs.repeats import Part, run_in_processes
from bench.runs.run import Job, run_job
from bench.runs.served import VllmStage, check_ready
from bench.runs.workloads import (
    Ranking,
    check_sizes,
    count_answers,
    make_rankings,
    num_kept,
    paper_size,
    published_ids,
    source_for,
    split_held_out,
    with_answers,
)
from bench.surface.pace import Pace
from bench.telemetry.watch import Watch
from bench.telemetry.windows import long_enough_s
from bench.text import OddRows, Prompt, load_prompts
from bench.variant import Variant
from bench.vocab.draft_vocab import IntArray
from bench.vocab.ranking import BY_ID, PUBLISHED, id_prefix_size, order_by_id, order_by_list

_ISOLATED, _BASELINE = "timing parts in isolation", "comparing with generate"

# Plain, full and advised.
_SERVED_VARIANTS = 3


@dataclass(frozen=True)
class _Text:
    """The prompts of a domain or corpus, and its rows that were set aside."""

    source: DomainSource
    prompts: list[Prompt]
    odd: OddRows

    @classmethod
    def read(cls, source: DomainSource) -> "_Text":
        odd = OddRows()
        return cls(source, load_prompts(source, odd), odd)


def run_bench(config: Config, console: Console) -> None:
    """Measures a pair, see `bench.runs.run.run_job`; in several fresh processes where that is asked for."""
    if config.measure.repeats == 1:
        run_part(config, console, Part())
    else:
        run_in_processes(config, run_part)


def run_part(config: Config, console: Console, part: Part) -> None:
    """One process of a run."""
    run_job(config, partial(_prepare, part=part), console, part)


def _prepare(config: Config, device: Device, console: Console, part: Part) -> Job:
    if config.timing.isolated:
        executions(device, config.timing.execution)  # refuses what this device cannot do
    if config.in_vllm:
        check_ready(config.vllm)
    check_writable(config.runs_dir)
    sources = [*config.domain.sources(), *config.corpora.values()]
    with stage(console, "fetching the domains") as fetching:
        data = data_ids(sources)
        texts = {}
        for done, source in enumerate(sources):
            fetching.update(f"fetching {source.name}", done, len(sources))
            texts[source.name] = _Text.read(source)
    with stage(console, "loading the models"):
        pair = load_pair(config.pair, device, config.dtype)
    # vLLM has fresh processes of its own.
    vllm = VllmStage(config, pair, device) if config.in_vllm and part.process == 0 else None
    sizes = check_sizes(pair, config.vocab, config.measure, partial(console.print, soft_wrap=True))
    for note in (*pair.target.notes, *pair.draft.notes):
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    rankings = _rank(pair, texts, config.vocab, console)
    published = published_ids(config.vocab, pair)
    workloads = [
        _workload(config, pair, texts[source.name], rankings, published, console)
        for source in config.domain.sources()
    ]
    _say_what_lacks(texts, workloads, config.measure, console)

    with stage(console, "preparing the loop"):
        engine, decoding = _engine(pair, device, config.measure)
    multiple = _multiple(config.vocab, device)

    def measure(done: Done, seen: Watch, reference: Pace | None) -> Generator[Record, None, None]:
        what = (engine, sizes, config.measure, config.advice, multiple, done)
        campaign = Campaign(*what, is_reversed=part.process % 2 == 1, reference=reference)
        of_rounds = campaign.stages(workloads)
        domains = [workload.domain for workload in workloads]
        windows = _energy_windows(config.telemetry, seen)
        num_records = {stage.name: stage.num_records for stage in of_rounds}
        stages = _stages(num_records, domains if windows else [], config.timing.isolated)
        if vllm:
            stages |= {_served(name): vllm.num_steps(_SERVED_VARIANTS) for name in domains}
        with run_bar(console, stages, done.num_records, {PROVING: PROVING_WEIGHT}) as bar:
            for part_of_rounds in of_rounds:
                yield from bar.follow(part_of_rounds.name, part_of_rounds.records)
            if windows:
                for workload in workloads:
                    steady = campaign.run_steadily(workload, *windows)
                    yield from bar.follow(_energy(workload.domain), steady)
            # Isolated parts and the speed of the plain loop do not depend on the domain.
            if config.timing.isolated:
                isolated = campaign.isolate(workloads[0], device, config.timing)
                yield from bar.follow(_ISOLATED, isolated)
            yield from bar.follow(_BASELINE, campaign.compare_with_reference(workloads[0]))
            if vllm:
                for workload in workloads:
                    served = vllm.run(workload, campaign.served_variants(workload.domain), done)
                    yield from bar.follow(_served(workload.domain), served)

    environment = describe_run(pair, device, data)
    environment["notes"] += [
        f"prompts of {source.name} are rendered by domain.template={source.template}, and not by the chat "
        "template that an engine takes from the target"
        for source in sources
        if source.template is not None
    ]
    environment["decoding"] = decoding
    with stage(console, "measuring launches", moves=False):
        environment["launches"] = asdict(_launches(device, engine, workloads[0], sizes[0], config.measure))
    environment["rows"] = {name: text.odd.as_dict() for name, text in texts.items()}
    environment["vocab_multiple"] = multiple
    environment["published_size"] = workloads[0].published_size
    kept, vocab_size = num_kept(pair), pair.target.vocab_size
    once: list[Record] = [ranking.record(kept, vocab_size) for ranking in rankings.values()]
    return Job(environment, pair.dtype, measure, _report, once)


def _energy(domain: str) -> str:
    """Name of a stage."""
    return f"{domain}: energy"


def _served(domain: str) -> str:
    """Name of a stage."""
    return f"decoding {domain} in vLLM"


def _report(folder: Path, console: Console) -> None:
    from bench.report.tasks import render

    render(folder, console)


def _engine(pair: Pair, device: Device, measure: MeasureConfig) -> tuple[TorchEngine, dict[str, Any]]:
    sampler = Sampler(measure.temperature, measure.top_k, measure.top_p) if measure.temperature else None
    return open_engine(pair, device, measure.max_new_tokens, measure.seed, sampler, measure.execution)


def _launches(
    device: Device, engine: TorchEngine, workload: Workload, least_size: int, measure: MeasureConfig
) -> LaunchFacts:
    """Of rounds with the smallest head, which hide least of their launches."""
    variant = Variant(least_size, max(measure.draft_lengths))

    def work() -> LaunchFacts:
        engine.use_order(workload.order)
        engine.reseed("launches")
        prepared = engine.prepare(workload.prompts[0].token_ids)
        return launch_facts(device, engine, prepared, variant, measure.probe_rounds)

    found = attempt(("launches",), work)
    return LaunchFacts(reason=found.message) if isinstance(found, FailureRecord) else found


def _multiple(vocab: VocabConfig, device: Device) -> int:
    """That an advised size must be of."""
    return vocab.multiple or (64 if device.torch_device.type == "cuda" else 1)


def _energy_windows(telemetry: TelemetryConfig, seen: Watch) -> tuple[float, float] | None:
    """Seconds of an energy window, and of a decode that needs none; None if energy is not known."""
    if not seen.has_energy or not telemetry.steady_s:
        return None
    least_s = long_enough_s(telemetry.interval_ms / 1e3)
    # The energy counters of a CPU are fast, so its decodes can be long enough for them.
    return max(telemetry.steady_s, least_s), least_s if seen.cpu_energy else math.inf


def _stages(num_records: Mapping[str, int], with_energy: Sequence[str], isolated: bool) -> dict[str, float]:
    """The stages of a run, in order, with their steps of the progress bar.

    Args:
        num_records: of the stages that decode in rounds.
        with_energy: domains whose energy is measured.
        isolated: whether parts are timed in isolation.
    """
    stages = {name: num * (PROVING_WEIGHT if name == PROVING else 1.0) for name, num in num_records.items()}
    whole = sum(stages.values())
    stages |= {_energy(domain): ENERGY_SHARE * whole / len(with_energy) for domain in with_energy}
    if isolated:
        stages[_ISOLATED] = ISOLATED_SHARE * whole
    stages[_BASELINE] = BASELINE_SHARE * whole
    return stages


def _rank(pair: Pair, texts: dict[str, _Text], vocab: VocabConfig, console: Console) -> dict[str, Ranking]:
    counts = {}
    for name, text in texts.items():
        with stage(console, f"ranking {name}") as current:
            show = partial(current.update, f"{name}: the target answers ranking prompts (kept)")
            counts[name] = count_answers(pair, text.source, text.prompts, vocab, show, text.odd)
    return make_rankings(pair, counts)


def _workload(
    config: Config,
    pair: Pair,
    text: _Text,
    rankings: dict[str, Ranking],
    published: IntArray | None,
    console: Console,
) -> Workload:
    source = text.source
    measure = config.measure
    with stage(console, f"{source.name}: reading held-out prompts") as current:
        measured, further = split_held_out(
            pair, source, text.prompts, config.vocab, measure.num_prompts, _num_replayed(measure), text.odd
        )
        show = partial(current.update, f"{source.name}: the target answers held-out prompts (kept)")
        answered = with_answers(pair, further, show)
    short = [prompt for prompt in answered if len(prompt.token_ids) <= source.max_prompt_tokens]
    probed = short[: max(0, _num_probed(measure) - len(measured))]
    ranked_on = source_for(source.name, config.vocab, rankings)
    k_star = paper_size(pair, rankings[ranked_on], config.select)
    orders = {name: ranking.order for name, ranking in rankings.items()}
    held_out, kept = [encoded for _, encoded in measured], num_kept(pair)
    own = orders[ranked_on]
    prefix_size = id_prefix_size(own, kept, config.vocab.id_prefix)
    if prefix_size:
        orders[BY_ID] = order_by_id(own, kept)
    published_size = None
    if published is not None:
        order, published_size = order_by_list(own, kept, published)
        orders |= {PUBLISHED: order} if published_size else {}
    sizes = prefix_size, published_size
    return Workload(source.name, held_out, ranked_on, orders, k_star, kept, answered, probed, *sizes)


def _num_replayed(measure: MeasureConfig) -> int:
    """Held-out prompts whose acceptance is wanted; 0: only of those that are measured."""
    # Sampled answers must come from the run's own sampler, not from those that are kept.
    return 0 if measure.temperature else measure.acceptance_prompts or 0


def _num_probed(measure: MeasureConfig) -> int:
    """Held-out prompts whose latency is wanted, as far as their acceptance is too."""
    return min(measure.latency_prompts or 0, _num_replayed(measure))


def _say_what_lacks(
    texts: dict[str, _Text], workloads: list[Workload], measure: MeasureConfig, console: Console
) -> None:
    for name, text in texts.items():
        for line in text.odd.lines(name):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    for workload in workloads:
        if len(workload.prompts) < measure.num_prompts:
            console.print(
                f"{workload.domain}: only {len(workload.prompts)} held-out prompts instead of "
                f"{measure.num_prompts}"
            )
        num_replayed, wanted = len(workload.prompts) + len(workload.answered), _num_replayed(measure)
        if num_replayed < wanted:
            console.print(
                f"{workload.domain}: acceptance is taken from all {num_replayed} held-out prompts that the "
                f"data set has instead of {wanted}",
                soft_wrap=True,
            )
        num_probed, wanted = len(workload.prompts) + len(workload.probed), measure.latency_prompts or 0
        if num_probed < wanted:
            most_tokens = texts[workload.domain].source.max_prompt_tokens
            why = (
                "that are decoded, as answers are sampled,"
                if measure.temperature
                else f"that are replayed and have at most {most_tokens} tokens"
            )
            console.print(
                f"{workload.domain}: latency is taken from the {num_probed} prompts {why} instead of "
                f"{wanted}",
                soft_wrap=True,
            )
