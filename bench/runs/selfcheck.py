"""`task=selfcheck`: are measurements correct on this machine? Uses the embedded pair."""

import json
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.config import CacheState, Config, TimingConfig
from bench.decoding.engine import Engine, PartKey
from bench.device import Device, default_dtype, open_device
from bench.device.lock import hold_device, physical_id
from bench.errors import DeviceError, FailedCasesError, OutputError, memory_for
from bench.measure.session import DECODE, Session
from bench.measure.timing import TimedSeries, TimerFacts, time_variants, timer_facts
from bench.measure.workload import EncodedPrompt, Step
from bench.progress import stage
from bench.records import DecodeRecord, FailureRecord
from bench.runs.environment import describe
from bench.runs.pair import Pair, load_pair, open_engine
from bench.runs.speed import Speed, Steps
from bench.runs.workloads import held_out_prompts
from bench.stats.estimates import CONFIDENCE, Estimate, Floats, median_ratio
from bench.text import load_prompts
from bench.variant import HEAD, LAYER, Variant

_NUM_PROMPTS, _NUM_TOKENS, _DRAFT_LENGTH, _NUM_REPEATS = 4, 32, 3, 4

_SMALL = 1024

# For each part; in a run, which times more parts, it is less.
_LEAST_BUDGET_S = 2.0

# Size of the smaller head that must be measurably faster than the full one.
_CUT = 0.8

# The parts that are compared with themselves: two heads, a layer, and a whole decode.
_NUM_SAME = 4


def run_selfcheck(config: Config, console: Console) -> Path:
    """Checks the measurements on one device and writes the findings.

    Returns:
        The file with all findings.

    Raises:
        FailedCasesError: a check did not pass.
        BenchError: wrong input.
    """
    with hold_device(physical_id(config.gpu.device), console.out):
        device = open_device(config.gpu.device, config.gpu.name_pattern)
        with stage(console, "loading the models"), memory_for("the models were loaded"):
            pair = load_pair(config.pair, device, config.dtype)
        with stage(console, "checking", moves=False):
            checks = _check(config, device, pair)
        with stage(console, "comparing the loop with what bounds it", moves=False):
            speeds = _speeds(config, device, pair)
    path = _write(config.results_dir, device, checks, speeds)
    _show(device, checks, console)
    _show_speeds(speeds, console)
    console.print(f"written to {path}", soft_wrap=True, highlight=False)
    failed = [check.name for check in _last(checks) if not check.passed]
    if failed:
        raise FailedCasesError(f"{len(failed)} checks did not pass: {', '.join(failed)}")
    return path


@dataclass(frozen=True)
class Check:
    """One check and its result.

    Attributes:
        name: short name.
        passed: the result.
        finding: what was measured, with numbers.
        remedy: what to do if it did not pass.
        ratio: ratio of the two compared things; None if nothing was compared.
        num_pairs: number of pairs of the ratio.
        attempt: 1, or 2 for a check that was repeated because it did not pass at first.
        note: a remark although it passed; None without one.
    """

    name: str
    passed: bool
    finding: str
    remedy: str
    ratio: Estimate | None = None
    num_pairs: int = 0
    attempt: int = 1
    note: str | None = None


@dataclass(frozen=True)
class _Instruments:
    """What is held against itself: an engine on a device, and parts of its rounds.

    Attributes:
        device: the device.
        engine: the embedded pair on it.
        prompts: that it decodes.
        sizes: of its heads, by name: `small`, `cut`, `full`.
        calls: the parts, by name: those heads and `layer`.
        timing: effort.
        seed: of every random order.
    """

    device: Device
    engine: Engine
    prompts: list[EncodedPrompt]
    sizes: dict[str, int]
    calls: dict[str, Callable[[], object]]
    timing: TimingConfig
    seed: int

    @property
    def drafted(self) -> Variant:
        """How prompts are decoded."""
        return Variant(self.sizes["small"], _DRAFT_LENGTH)


@dataclass(frozen=True)
class _Compared:
    """One comparison of the instruments with themselves: times by part, samples in ms, decodes."""

    checks: list[Check]
    times: dict[str, Floats]
    samples_ms: dict[str, float]
    records: list[DecodeRecord]


def _check(config: Config, device: Device, pair: Pair) -> list[Check]:
    timing, prompts, seed = _timing(config), _prompts(config, pair), config.measure.seed
    engine, _ = open_engine(pair, device, _NUM_TOKENS, seed)
    full = engine.full_size
    sizes = {"small": min(_SMALL, full // 2), "cut": int(_CUT * full), "full": full}
    parts = engine.parts(engine.prepare(prompts[0].token_ids), list(sizes.values()), [_DRAFT_LENGTH])
    calls = {name: parts[PartKey(HEAD, vocab_size=size)] for name, size in sizes.items()}
    calls["layer"] = parts[PartKey(LAYER)]
    return _checks(_Instruments(device, engine, prompts, sizes, calls, timing, seed))


def _timing(config: Config) -> TimingConfig:
    return replace(config.timing, budget_s=max(config.timing.budget_s, _LEAST_BUDGET_S))


def _prompts(config: Config, pair: Pair) -> list[EncodedPrompt]:
    source = config.domain.sources()[0]
    return held_out_prompts(pair, source, load_prompts(source), config.vocab, _NUM_PROMPTS)


def _speeds(config: Config, device: Device, pair: Pair) -> list[Speed]:
    """The loop beside what bounds it, in the dtype of the pair; on a CPU that has bfloat16, in both."""
    pairs = [pair]
    if device.torch_device.type == "cpu" and default_dtype(device) is torch.bfloat16:
        other = {torch.bfloat16: "float32", torch.float32: "bfloat16"}.get(pair.dtype)
        pairs += [load_pair(config.pair, device, other)] if other else []
    steps = [Steps(device, one, _prompts(config, one), config.measure.seed) for one in pairs]
    # All in one interleaved run; chained steps find the draft's weights in the cache, if it holds them.
    calls = {f"{one.dtype} {name}": call for one in steps for name, call in one.calls.items()}
    times, _ = time_heads(device, calls, _timing(config), config.measure.seed, CacheState.warm)
    return [
        speed
        for one in steps
        for speed in one.speeds({name: times[f"{one.dtype} {name}"] for name in one.calls})
    ]


def _checks(of: _Instruments) -> list[Check]:
    compared = _compare_with_itself(of, attempt=1)
    checks = compared.checks
    if not all(check.passed for check in checks):
        # One comparison in twenty fails by chance. A real problem fails twice.
        compared = _compare_with_itself(of, attempt=2)
        checks = checks + compared.checks
    times = compared.times
    laps = with_and_without_laps(of.engine, of.prompts, of.drafted, _NUM_REPEATS, of.seed)
    return [
        *checks,
        different(f"A/B full LM head, and {_CUT:.0%} of it", (times["full A"], times["cut"]), 1 / _CUT),
        fine_clock(timer_facts(of.device), compared.samples_ms),
        small_overhead(laps, of.device.asynchronous),
        laps_add_up(compared.records),
        stationary(first_and_second(of.engine, of.prompts, of.drafted)),
    ]


def _compare_with_itself(of: _Instruments, attempt: int) -> _Compared:
    names = {"small": f"LM head of {of.sizes['small']:,}", "full": "full LM head", "layer": "draft layer"}
    twice = {f"{name} {label}": of.calls[name] for name in names for label in ("A", "B")}
    seed = of.seed + attempt
    times, num_calls = time_heads(of.device, {**twice, "cut": of.calls["cut"]}, of.timing, seed)
    decoded, records = decode_twice(of.engine, of.prompts, of.drafted, _NUM_REPEATS, seed)
    checks = [
        same(f"A/A {text}", (times[f"{name} A"], times[f"{name} B"]), _NUM_SAME, attempt)
        for name, text in names.items()
    ]
    checks.append(same("A/A whole decode", decoded, _NUM_SAME, attempt))
    samples_ms = {
        text: float(np.median(times[f"{name} A"])) * num_calls[f"{name} A"] for name, text in names.items()
    }
    return _Compared(checks, times, samples_ms, records)


def _last(checks: list[Check]) -> list[Check]:
    """The last attempt of each check: a repeated check only fails if it failed both times."""
    passed = {check.name for check in checks if check.passed}
    latest = {check.name: check for check in checks}
    return [replace(check, passed=check.passed or check.name in passed) for check in latest.values()]


def _write(results_dir: str, device: Device, checks: list[Check], speeds: Sequence[Speed] = ()) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = Path(results_dir) / "selfcheck" / f"{stamp}-{os.getpid()}.json"
    content = {
        "environment": describe(device),
        "checks": [asdict(check) for check in checks],
        "speeds": [asdict(speed) for speed in speeds],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".partial")
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; set results_dir") from error
    return path


def _show(device: Device, checks: list[Check], console: Console) -> None:
    table = Table(title=f"checks of measurements on {device.name}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("check", "", "found"):
        table.add_column(heading)
    held = {check.name for check in _last(checks) if check.passed}
    for check in checks:
        # A check that failed once, but not in a longer repetition, was one of the expected false alarms.
        failed = "[yellow]again[/yellow]" if check.name in held else "[red]FAIL[/red]"
        verdict = "[green]pass[/green]" if check.passed else failed
        verdict = "[yellow]note[/yellow]" if check.passed and check.note else verdict
        name = check.name if check.attempt == 1 else f"{check.name}, repeated"
        remedy = "repeated below with more samples" if check.name in held else f"To do: {check.remedy}"
        found = check.finding if check.passed else f"{check.finding}. {remedy}"
        found += f". Note: {check.note}" if check.passed and check.note else ""
        table.add_row(escape(name), verdict, escape(found))
    console.print(table)
    if len(held) == len(_last(checks)):
        console.print(
            f"[bold green]Measurements are correct here[/bold green]: all {len(held)} checks passed. "
            f"The same work under two names takes the same time ({CONFIDENCE:.0%} confidence over all "
            "comparisons), and other work does not.",
            highlight=False,
        )


def _show_speeds(speeds: list[Speed], console: Console) -> None:
    table = Table(title="speed of the loop", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("dtype", "what", "goal", "", "found"):
        table.add_column(heading, overflow="fold")
    for speed in speeds:
        met = "[green]met[/green]" if speed.is_met else "[yellow]missed[/yellow]"
        table.add_row(speed.dtype, escape(speed.name), speed.goal, met, escape(speed.finding))
    console.print(table)


# The checks: the same work under two names must take the same time, and other work must not.

# If timing takes more than this share of the timed work, it disturbs the measurement.
MOST_OVERHEAD = 0.01

# On an asynchronous device a mark costs a launch, which makes rounds slower that are bound by launches.
_MOST_LAUNCHES = 0.05

# Laps do not include the time before the first and after the last of them.
_MOST_OUTSIDE = 0.05

# A first decode may find less of its weights in the caches.
_MOST_FIRST = 0.05

_NUM_NEW_LENGTHS = 12

_BUSY = "other programs may use this machine: stop them, then run this again"

Pairs = tuple[Floats, Floats]


def same(name: str, pairs: Pairs, num_comparisons: int, attempt: int = 1) -> Check:
    """The same work under two names: the interval of the ratio must contain 1.

    Args:
        name: what was measured twice.
        pairs: times of both `(n,)`.
        num_comparisons: number of comparisons that share the 5% of false alarms.
        attempt: 1 or 2.
    """
    ratio = median_ratio(*pairs, _shared(num_comparisons))
    shown = f"a difference of {_smallest(ratio):.1%} would have shown"
    found = f"{_format_ratio(ratio)} over {len(pairs[0])} pairs; {shown}"
    return Check(name, ratio.ci_low <= 1 <= ratio.ci_high, found, _BUSY, ratio, len(pairs[0]), attempt)


def different(name: str, pairs: Pairs, expected: float) -> Check:
    """Two different things: the first must be measurably slower."""
    ratio = median_ratio(*pairs)
    found = f"{_format_ratio(ratio)} over {len(pairs[0])} pairs; about {expected:.2f} is expected"
    remedy = f"differences of this size cannot be measured here: {_BUSY}"
    return Check(name, ratio.ci_low > 1, found, remedy, ratio, len(pairs[0]))


def fine_clock(timer: TimerFacts, samples_ms: Mapping[str, float]) -> Check:
    """Whether the clock is fine enough for the parts.

    It fails if the clock stands still, or if even the longest sample is too short for it. A part that is
    short compared with a mark gets a note, because that is not a fault of the clock.

    Args:
        timer: the clock.
        samples_ms: duration of one sample of every part, with all the calls in it.
    """
    longest, step = max(samples_ms.values()), timer.resolution_ms
    resolution = "unknown" if step is None else f"{step * 1e3:.3g} us"
    whose = "" if timer.is_device_pace else " (of the host: the device could not be kept busy)"
    dear = max(timer.mark_ms, step or 0.0)
    short = [name for name, ms in samples_ms.items() if dear > MOST_OVERHEAD * ms]
    found = (
        f"resolution {resolution}, a mark costs {timer.mark_ms * 1e3:.3g} us{whose}; samples take "
        f"{min(samples_ms.values()) * 1e3:.3g} to {longest * 1e3:.3g} us"
    )
    note = None
    if short:
        names = ", ".join(short)
        note = f"a mark takes more than {MOST_OVERHEAD:.0%} of {names}: their latencies are upper bounds"
    passed = step is not None and step <= MOST_OVERHEAD * longest
    return Check("clock", passed, found, "the clock is too coarse here: update the driver", note=note)


def small_overhead(pairs: Pairs, asynchronous: bool = False) -> Check:
    """Compares decodes with laps and decodes without.

    Args:
        pairs: times of both `(n,)`.
        asynchronous: whether the device is asynchronous. A mark then costs a launch. Up to 5% slower rounds
            only get a note, because they are bound by launches.
    """
    ratio = median_ratio(*pairs)
    found = f"with laps over without: {_format_ratio(ratio)} over {len(pairs[0])} pairs"
    remedy = f"laps cost more than {MOST_OVERHEAD:.0%}: latencies are upper bounds, or {_BUSY}"
    passed = ratio.ci_low <= 1 + (_MOST_LAUNCHES if asynchronous else MOST_OVERHEAD)
    is_dear = passed and ratio.ci_low > 1 + MOST_OVERHEAD
    note = f"rounds are bound by launches: their laps cost about {ratio.value - 1:.1%}" if is_dear else None
    return Check("overhead of laps", passed, found, remedy, ratio, len(pairs[0]), note=note)


def laps_add_up(records: Iterable[DecodeRecord]) -> Check:
    """Compares the device's clock with the host's clock."""
    shares = np.array([record.decode_ms / record.wall_ms for record in records])
    share = float(np.median(shares))
    found = f"laps are {share:.1%} of the wall time of a decode (median of {len(shares)})"
    passed = 1 - _MOST_OUTSIDE <= share <= 1 + MOST_OVERHEAD
    return Check("device against wall time", passed, found, "the two clocks disagree: update the driver")


def stationary(pairs: Pairs) -> Check:
    """First decodes of new texts against second ones: nothing may be prepared while it is timed.

    A library that chooses kernels or makes plans for every new length makes the first decode slower.

    Args:
        pairs: times of both `(n,)`.
    """
    ratio = median_ratio(*pairs)
    found = f"first over second: {_format_ratio(ratio)} over {len(pairs[0])} texts of new lengths"
    remedy = f"something is prepared during measurements, as plans of attention kernels are, or {_BUSY}"
    passed = ratio.ci_low <= 1 + _MOST_FIRST
    return Check("stationarity", passed, found, remedy, ratio, len(pairs[0]))


def blocks_of(series: TimedSeries, size: int) -> Floats:
    """Median of every block of samples: the samples of a block are close in time, blocks are not."""
    times = np.array(series.device_ms)
    return np.median(times[: len(times) // size * size].reshape(-1, size), axis=1)


def time_heads(
    device: Device,
    calls: Mapping[str, Callable[[], object]],
    timing: TimingConfig,
    seed: int,
    cache: CacheState = CacheState.cold,
) -> tuple[dict[str, Floats], dict[str, int]]:
    """Block medians by name, in equal numbers, and calls per sample; warm where there are no cold caches."""
    cache = CacheState.warm if device.cache_bytes is None else cache
    config = TimingConfig(**{**vars(timing), "cache": cache})
    found = []
    for series in time_variants(device, calls, config, seed):
        if isinstance(series, FailureRecord):
            raise DeviceError(f"{series.case[0]} cannot be timed here: {series.message}")
        found.append(series)
    blocks = {series.name: blocks_of(series, config.samples_per_block) for series in found}
    shortest = min(map(len, blocks.values()))
    times = {name: medians[:shortest] for name, medians in blocks.items()}
    return times, {series.name: series.calls_per_sample for series in found}


def decode_twice(
    engine: Engine, prompts: list[EncodedPrompt], variant: Variant, num_repeats: int, seed: int
) -> tuple[Pairs, list[DecodeRecord]]:
    """Whole decodes under two names, assigned at random within each pair of neighbours."""
    session, coin = Session(engine), random.Random(seed)
    records: list[DecodeRecord] = []
    steps = [Step(DECODE, variant)] * 2 * num_repeats
    for prompt in prompts:
        found = session.measure("selfcheck", prompt, steps, rounds=1)
        records += [record for record in found if isinstance(record, DecodeRecord)]
    pairs = [(a.decode_ms, b.decode_ms) for a, b in zip(records[::2], records[1::2], strict=True)]
    named = [pair if coin.random() < 0.5 else pair[::-1] for pair in pairs]
    first, second = (np.array(side) for side in zip(*named, strict=True))
    return (first, second), records


def first_and_second(engine: Engine, prompts: list[EncodedPrompt], variant: Variant) -> Pairs:
    """The first and the second decode of texts whose lengths were not there before `(n,)` each, in ms."""
    found, ids = [], prompts[0].token_ids
    for cut in range(1, min(_NUM_NEW_LENGTHS, len(ids) - 1) + 1):
        prepared = engine.prepare(ids[:-cut])
        engine.load(variant, [prepared])
        took = [engine.decode(prepared, variant, with_laps=False) for _ in range(2)]
        # Of answers of different lengths only rounds compare.
        found.append([one.decode_ms / max(1, len(one.accepted)) for one in took])
    first, second = np.array(found).T
    return first, second


def with_and_without_laps(
    engine: Engine, prompts: list[EncodedPrompt], variant: Variant, num_repeats: int, seed: int
) -> Pairs:
    """Decodes with a mark at every step, and with none in between, in random order `(n,)` each, in ms."""
    coin, found = random.Random(seed), []
    for prompt in prompts:
        prepared = engine.prepare(prompt.token_ids)
        for _ in range(num_repeats):
            took = {}
            for with_laps in (True, False) if coin.random() < 0.5 else (False, True):
                took[with_laps] = engine.decode(prepared, variant, with_laps=with_laps).decode_ms
            found.append((took[True], took[False]))
    lapped, silent = (np.array(side) for side in zip(*found, strict=True))
    return lapped, silent


def _shared(num_comparisons: int) -> float:
    """Confidence of each comparison, so that all together have 95% (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / num_comparisons


def _smallest(ratio: Estimate) -> float:
    return max(ratio.ci_high / ratio.value, ratio.value / ratio.ci_low if ratio.ci_low else float("inf")) - 1


def _format_ratio(ratio: Estimate) -> str:
    return f"{ratio.value:.4f} [{ratio.ci_low:.4f}, {ratio.ci_high:.4f}]"
