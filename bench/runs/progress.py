"""The bar of a run: how much is done and how long the rest takes, over all that a run does."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bench.records import Record

# Beside the rounds, as a share of their steps: what these take on a CPU (on their own, generate) and on a GPU
# (energy), roughly. A bar that is a little off is better than one that is full before the end.
ENERGY_SHARE, ISOLATED_SHARE, BASELINE_SHARE = 0.3, 0.06, 0.02


class RunBar:
    """Stages one after the other, each with its steps; `num_done` of them were done by an earlier session."""

    def __init__(self, progress: Progress, steps: Mapping[str, float], num_done: int = 0):
        self._progress, self._num_done = progress, num_done
        ends = list(accumulate(steps.values()))
        self._bounds = dict(zip(steps, zip([0.0, *ends], ends, strict=False), strict=True))
        self._bar: TaskID = progress.add_task("warming up", total=ends[-1])

    def follow(self, stage: str, records: Iterable[Record]) -> Generator[Record, None, None]:
        """Passes the records of a stage on; the bar is at the stage's start before them and at its end after.

        Args:
            stage: one of those that the bar was made for.
            records: of the stage, about one per step.
        """
        start, end = self._bounds[stage]
        place = min(max(start, self._num_done), end)
        self._progress.update(self._bar, description=stage, completed=place)
        for record in records:
            yield record
            # More than were expected must not reach into the next stage.
            place = min(place + 1, end)
            self._progress.update(self._bar, completed=place)
        self._progress.update(self._bar, completed=end)


@contextmanager
def run_bar(console: Console, steps: Mapping[str, float], num_done: int) -> Iterator[RunBar]:
    """The bar of a run on the console.

    Args:
        console: where it is drawn.
        steps: of every stage, in order.
        num_done: records of earlier sessions.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield RunBar(progress, steps, num_done)
