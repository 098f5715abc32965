"""`make scaling`: how time grows as the work grows tenfold, and counting beside the published ways.

Prints Markdown and writes it to `results/microbench/scaling.md`; `--readme` also writes it into the README
beside this file.
"""

import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console

import bench.__main__  # noqa: F401  the garbage collector as users have it
from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.config import DomainSource, Source
from bench.device import open_device
from bench.models.fetching import resolve_tokenizer
from bench.report.tasks import report_runs
from bench.runs.environment import describe
from bench.text import load_conversations
from bench.text.counting import CountSettings, block_counts, count_responses
from bench.text.tokenizer import load_tokenizer
from bench.vocab.coverage import coverage_band, coverage_curve
from bench.vocab.draft_vocab import DraftVocab, rank_by_count
from bench.vocab.search import SearchSpace, exact_optimum
from tests.analysis.synthetic import Device, Experiment, write_run
from tests.microbench.counting import REFERENCES, write_corpus

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- scaling: generated -->", "<!-- scaling: end -->"

# Times of one size scatter by so much; a step is not called worse than linear within it.
_NOISE = 1.1

_LEAST_REPEATS, _BUDGET_S, _LONG_S = 3, 2.0, 10.0

MOST_CONVERSATIONS = 50_000


@dataclass(frozen=True)
class Scale:
    """Times of one kind of work at sizes that grow tenfold.

    Attributes:
        what: the work.
        of: what its size counts.
        sizes: ascending.
        times_s: median of each size.
    """

    what: str
    of: str
    sizes: tuple[int, ...]
    times_s: tuple[float, ...]

    @property
    def steps(self) -> list[float]:
        """Time of each size over that of the size before."""
        return [later / before for before, later in zip(self.times_s, self.times_s[1:], strict=False)]

    @property
    def is_linear_or_better(self) -> bool:
        """Whether no step costs more than its size grows by."""
        grown = [later / before for before, later in zip(self.sizes, self.sizes[1:], strict=False)]
        return all(step <= _NOISE * by for step, by in zip(self.steps, grown, strict=True))


def timed(work: Callable[[], object]) -> float:
    """Median seconds of several calls after a first one; that one's alone where it takes long."""
    first_s = _seconds(work)
    if first_s > _LONG_S:
        return first_s
    took: list[float] = []
    while len(took) < _LEAST_REPEATS or sum(took) < _BUDGET_S:
        took.append(_seconds(work))
    return median(took)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def scales(folder: Path) -> Iterator[Scale]:
    """Everything that grows with a user's data."""
    sizes = (500, 5_000, MOST_CONVERSATIONS)
    yield _scale("count response tokens", "conversations", sizes, lambda n: _counting(folder, n))
    yield _scale("choose a vocabulary", "tokens of the target", (2_560, 25_600, 256_000), _choosing)
    yield _scale("analyse a run", "prompts", (6, 60, 600), lambda n: _analysis(folder, n))
    yield _scale("write the page of several runs", "runs", (1, 10, 100), lambda n: _page(folder, n))


def _scale(what: str, of: str, sizes: Sequence[int], prepare: Callable[[int], Callable[[], object]]) -> Scale:
    times_s = []
    for size in sizes:
        print(f"{what}, {size:,} {of} ...", file=sys.stderr)
        times_s.append(timed(prepare(size)))
    return Scale(what, of, tuple(sizes), tuple(times_s))


def _counting(folder: Path, num: int, num_processes: int | None = None) -> Callable[[], object]:
    target = load_tokenizer(resolve_tokenizer("smollm2-135m-instruct"))
    domain = DomainSource("chat", Source.file, str(write_corpus(folder / f"{num}.jsonl", num)))
    settings = CountSettings(0, 0.2, False)
    return lambda: count_responses(lambda: load_conversations(domain), target, settings, num_processes)


def _choosing(vocab_size: int) -> Callable[[], object]:
    """Ranking, coverage of every k with intervals, the exact optimum, and the maps of the vocabulary."""
    rng = np.random.default_rng(0)
    answers = [(str(i), np.minimum(rng.zipf(1.2, 400), vocab_size) - 1) for i in range(vocab_size // 64)]
    blocks = block_counts([(group, ids.tolist()) for group, ids in answers], vocab_size, len(answers))
    reduction = np.linspace(0.65, 0.0, vocab_size)

    def choose() -> object:
        counts = blocks.total()
        order = rank_by_count(counts)
        coverage_band(blocks, order, 200, 0)
        size = exact_optimum(
            coverage_curve(counts, order), reduction, SearchSpace(0.5, 0.0, 50, vocab_size)
        ).vocab_size
        vocab = DraftVocab(np.sort(order[:size]), vocab_size)
        return vocab.d2t, vocab.t2d

    return choose


def _analysis(folder: Path, num_prompts: int) -> Callable[[], object]:
    run = write_run(
        folder / f"prompts-{num_prompts}", Device(noise=0.02), Experiment(num_prompts=num_prompts)
    )
    return lambda: Findings.of(read_run(run)).summary


def _page(folder: Path, num_runs: int) -> Callable[[], object]:
    root = folder / f"runs-{num_runs}"
    for index in range(num_runs):
        device = Device(f"GPU {index % 10}", uuid=f"GPU-{index}", host=f"host{index}", noise=0.02)
        write_run(root / "runs" / f"run{index}", device, Experiment(seed=index))

    def write() -> object:
        console = Console(file=io.StringIO(), width=120)
        return report_runs([root / "runs"], root / "runs", root / "reports", None, console)

    return write


@dataclass(frozen=True)
class Beside:
    """How many times as fast as a published way this package counts, on the same conversations.

    Attributes:
        name: of the published way.
        per_s: conversations a second from file to counts, in one process as all published ways here.
        alone: ratio with this package in one process.
        all_cores: ratio with this package on all cores.
        counting: ratio of what comes after tokenization: marking the answers, and counting.
    """

    name: str
    per_s: float
    alone: float
    all_cores: float
    counting: float


def counting_beside_the_references(folder: Path) -> Iterator[Beside]:
    """Every published way beside this package, in turns, on the corpus that `scales` wrote."""
    print("counting beside published ways ...", file=sys.stderr)
    target = load_tokenizer(resolve_tokenizer("smollm2-135m-instruct"))
    tokenizer, path = target.tokenizer, folder / f"{MOST_CONVERSATIONS}.jsonl"
    own = [_counting(folder, MOST_CONVERSATIONS, num_processes) for num_processes in (1, None)]
    published = [partial(reference.count_file, path, tokenizer) for reference in REFERENCES]
    calls: list[Callable[[], object]] = [*own, *published]
    nums = [MOST_CONVERSATIONS] * len(own) + [reference.num for reference in REFERENCES]
    each_s = np.array([[_seconds(call) for call in calls] for _ in range(_LEAST_REPEATS)]) / nums
    for reference, its_s in zip(REFERENCES, each_s.T[len(own) :], strict=True):
        alone, all_cores = np.median(its_s[:, None] / each_s[:, : len(own)], axis=0).tolist()
        encoded = list(reference.encode(path, tokenizer))
        answers = list(reference.answers(encoded, tokenizer))
        marked_s = timed(partial(reference.count, encoded, tokenizer))
        groups = [(str(index), ids.numpy()) for index, ids in enumerate(answers)]
        counted_s = timed(partial(block_counts, groups, target.vocab_size, len(groups)))
        yield Beside(reference.name, float(1 / np.median(its_s)), alone, all_cores, marked_s / counted_s)


def as_markdown(found: Sequence[Scale], ways: Sequence[Beside]) -> str:
    """Both tables, and where they were measured."""
    facts = describe(open_device("auto"))
    lines = [
        f"{facts['device_name']}, {facts['cpu_affinity']} cores, Python {facts['python']}, "
        f"{datetime.now(UTC):%Y-%m-%d}. Medians.",
        "",
        "| work | grows with | sizes | time | ten times the size costs | |",
        "|---|---|---|---|---|---|",
    ]
    for scale in found:
        lines.append(
            f"| {scale.what} | {scale.of} | {' / '.join(f'{n:,}' for n in scale.sizes)} "
            f"| {' / '.join(map(_readable, scale.times_s))} "
            f"| {' / '.join(f'{step:.1f}x' for step in scale.steps)} "
            f"| {'linear or better' if scale.is_linear_or_better else '**worse than linear**'} |"
        )
    lines += [
        "",
        "| published way to count | conversations a second | this package, one process, over it "
        f"| {facts['cpu_affinity']} cores over it | after tokenization |",
        "|---|---|---|---|---|",
    ]
    for way in ways:
        ratios = " | ".join(f"{ratio:.1f}x" for ratio in (way.alone, way.all_cores, way.counting))
        lines.append(f"| {way.name} | {way.per_s:,.0f} | {ratios} |")
    return "\n".join(lines)


def _readable(time_s: float) -> str:
    return f"{time_s:.2f} s" if time_s >= 1 else f"{time_s * 1e3:.3g} ms"


def main(arguments: list[str]) -> int:
    """Measures and writes; 1 if something grows faster than its work."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = list(scales(folder))
        text = as_markdown(found, list(counting_beside_the_references(folder)))
    print(text)
    path = Path("results/microbench/scaling.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    if "--readme" in arguments:
        before, _, rest = README.read_text("utf-8").partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")
    return int(not all(scale.is_linear_or_better for scale in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
