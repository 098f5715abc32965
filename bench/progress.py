"""What is going on, for a person who waits: a moving line on a terminal, plain lines in a log."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.live import Live

# Between two lines of a log. The promise is 30 s; a library that holds the interpreter makes a line late.
PERIOD_S = 25.0

Clock = Callable[[], float]


class Stage:
    """One piece of work that a person waits for.

    Attributes:
        name: what is done.
    """

    def __init__(self, name: str, clock: Clock = time.monotonic, show: Callable[[str], None] | None = None):
        self.name, self._clock, self._show = name, clock, show
        self._start_s = clock()
        self._done, self._total = 0.0, 0.0
        self._counting_from: tuple[float, float] | None = None

    def update(self, name: str | None = None, done: float = 0, total: float = 0) -> None:
        """Notes the progress.

        Args:
            name: what is done now; None: the same as before.
            done: steps that are done.
            total: all steps; 0: not known, so that no remaining time is shown.
        """
        self.name = name or self.name
        if total != self._total or done < self._done:
            # Other steps than before: the time of those says nothing about these.
            self._counting_from = None
        elif self._counting_from is None and done > self._done:
            # Not sooner: before its first step a stage warms up.
            self._counting_from = (done, self._clock())
        self._done, self._total = done, total
        if self._show:
            self._show(self.name + self._steps())

    def line(self) -> str:
        """What is done, how many steps of how many, time elapsed, and time remaining where it is known."""
        now_s = self._clock()
        first, since_s = self._counting_from or (self._done, now_s)
        parts = [f"{self.name}{self._steps()}", f"{_duration(now_s - self._start_s)} elapsed"]
        if self._total and self._done > first:
            rest_s = (self._total - self._done) * (now_s - since_s) / (self._done - first)
            parts.append(f"about {_duration(rest_s)} remaining")
        return ", ".join(parts)

    def _steps(self) -> str:
        if self._total:
            return f": {self._done:,.0f} of {self._total:,.0f}"
        return f": {self._done:,.0f}" if self._done else ""


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


class _Log:
    """The lines of a log: at most one per period, whichever stage it is of."""

    def __init__(self, clock: Clock = time.monotonic):
        self.clock = clock
        self.last_s = clock()

    def speak(self, stage: Stage, console: Console, wait: Callable[[float], bool], period_s: float) -> None:
        """Prints the line of a stage every period until `wait` says that the stage has ended."""
        while not wait(max(0.0, self.last_s + period_s - self.clock())):
            self.last_s = self.clock()
            console.print(stage.line(), highlight=False, markup=False, soft_wrap=True)


# Periods run across stages: many short ones are not silent.
_LOG = _Log()


def is_live(console: Console) -> bool:
    """Whether a line on this console can move: on a terminal, not in a file, a pipe or a dumb terminal."""
    # FORCE_COLOR, which many CI systems set, makes rich take a file for a terminal.
    return console.is_interactive and not console.is_dumb_terminal and console.file.isatty()


@contextmanager
def stage(console: Console, name: str, period_s: float = PERIOD_S, moves: bool = True) -> Iterator[Stage]:
    """Shows what is done until the block ends.

    Args:
        console: the console.
        name: what is done.
        period_s: between two lines of a log.
        moves: whether the line may move by itself; not where something is timed, which redraws would disturb.
    """
    if is_live(console) and moves:
        with console.status(name) as status:
            yield Stage(name, show=status.update)
    elif is_live(console):
        with Live(name, console=console, auto_refresh=False, transient=True) as live:
            yield Stage(name, show=partial(live.update, refresh=True))
    else:
        with in_log(console, Stage(name), period_s) as current:
            yield current


@contextmanager
def in_log(console: Console, current: Stage, period_s: float = PERIOD_S) -> Iterator[Stage]:
    """Prints the line of a stage every period until the block ends."""
    ended = threading.Event()
    # A thread, as a download or a large operation does not come back for half a minute. It sleeps.
    speaker = threading.Thread(target=_LOG.speak, args=(current, console, ended.wait, period_s), daemon=True)
    speaker.start()
    try:
        yield current
    finally:
        ended.set()
        speaker.join()


def hide_foreign_bars() -> None:
    """Tells libraries to draw no bars of their own; to be called before they are imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
