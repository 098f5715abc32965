"""The progress bar of a run: how much is done, and how long the rest will take."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bench.progress import Stage, is_live, stage
from bench.records import Record

# Duration of the other stages as a share of the rounds' steps, roughly, on a CPU (isolated parts, generate)
# and on a GPU (energy). A bar that is a little wrong is better than one that is full too early.
ENERGY_SHARE, ISOLATED_SHARE, BASELINE_SHARE = 0.3, 0.12, 0.02

# How long a record among whole decodes takes, over one among replays and probes, roughly.
PROVING_WEIGHT = 4.0

_WARMING_UP = "warming up"


class RunBar:
    """Stages in order, each with its steps; an earlier session did `num_done` of them.

    Args:
        progress: draws the bar, or is disabled.
        steps: number of steps of every stage.
        num_done: number of records of earlier sessions.
        in_log: says the same in a log.
        weights: how many steps a record of a stage is; 1 for a stage that is not named.
    """

    def __init__(
        self,
        progress: Progress,
        steps: Mapping[str, float],
        num_done: int = 0,
        in_log: Stage | None = None,
        weights: Mapping[str, float] | None = None,
    ):
        self._progress, self._in_log, self._weights = progress, in_log, weights or {}
        self._done = self._steps_of(num_done, steps)
        ends = list(accumulate(steps.values()))
        self._bounds = dict(zip(steps, zip([0.0, *ends], ends, strict=False), strict=True))
        self._total = ends[-1]
        self._bar: TaskID = progress.add_task(_WARMING_UP, total=self._total)

    def follow(self, stage: str, records: Iterable[Record]) -> Generator[Record, None, None]:
        """Yields the records of a stage. The bar moves from the start of the stage to its end.

        Args:
            stage: one of the bar's stages.
            records: records of the stage, about one per step.
        """
        start, end = self._bounds[stage]
        place, weight = min(max(start, self._done), end), self._weights.get(stage, 1.0)
        self._show(stage, place)
        for record in records:
            yield record
            # More records than expected must not move the bar into the next stage.
            place = min(place + weight, end)
            self._show(stage, place)
        self._show(stage, end)

    def _steps_of(self, num_records: float, steps: Mapping[str, float]) -> float:
        """Steps that the first so many records of a run were."""
        done = 0.0
        for name, whole in steps.items():
            weight = self._weights.get(name, 1.0)
            part = min(num_records * weight, whole)
            done, num_records = done + part, num_records - part / weight
        return done

    def _show(self, stage: str, place: float) -> None:
        self._progress.update(self._bar, description=stage, completed=place, refresh=True)
        if self._in_log:
            self._in_log.update(stage, place, self._total)


@contextmanager
def run_bar(
    console: Console, steps: Mapping[str, float], num_done: int, weights: Mapping[str, float] | None = None
) -> Iterator[RunBar]:
    """The bar of a run on the console; lines where that is a log.

    Args:
        console: the console.
        steps: number of steps of every stage, in order.
        num_done: number of records of earlier sessions.
        weights: as of `RunBar`.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    if is_live(console):
        # Drawn between two measurements and never during one.
        with Progress(*columns, console=console, auto_refresh=False) as progress:
            yield RunBar(progress, steps, num_done, None, weights)
    else:
        with stage(console, _WARMING_UP) as current:
            yield RunBar(Progress(disable=True), steps, num_done, current, weights)
