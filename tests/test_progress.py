"""What a person who waits is told: on a terminal, and in a log by a clock."""

import io
import subprocess
import sys
import time

import pytest
from rich.console import Console

from bench import progress
from bench.progress import Stage, in_log, is_live, stage
from bench.runs.progress import run_bar


class Clock:
    """Time passes only while something waits."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ([], "fetching, 1 min 05 s elapsed"),
        ([(None, 1200, 0)], "fetching: 1,200, 1 min 05 s elapsed"),
        ([(None, 0, 8)], "fetching: 0 of 8, 1 min 05 s elapsed"),
        # Whatever came before the first step says nothing about the others.
        ([(None, 0, 8), 10, (None, 2, 8)], "fetching: 2 of 8, 1 min 05 s elapsed"),
        (
            [(None, 0, 8), 45, (None, 2, 8), 10, (None, 4, 8)],
            "fetching: 4 of 8, 1 min 05 s elapsed, about 40 s remaining",
        ),
        # Steps of an earlier session took no time here.
        (
            [(None, 5, 8), 45, (None, 6, 8), 10, (None, 7, 8)],
            "fetching: 7 of 8, 1 min 05 s elapsed, about 20 s remaining",
        ),
        # The pace of other steps says nothing about these.
        (
            [(None, 0, 8), (None, 1, 8), 35, (None, 8, 8), ("code", 0, 3), ("code", 1, 3)],
            "code: 1 of 3, 1 min 05 s elapsed",
        ),
    ],
)
def test_a_line_says_what_how_many_elapsed_and_remaining(steps, line):
    clock = Clock()
    current = Stage("fetching", clock)
    for step in steps:
        if isinstance(step, tuple):
            current.update(*step)
        else:
            clock.now_s += step
    clock.now_s = 165.0
    assert current.line() == line


def test_a_log_has_a_line_every_period_also_across_short_stages():
    clock, out = Clock(), io.StringIO()
    console, log = Console(file=out, width=200), progress._Log(clock)
    said_s = []

    def lasts(seconds):
        end_s = clock.now_s + seconds

        def wait(most_s):
            step_s = min(most_s, end_s - clock.now_s)
            clock.now_s += step_s
            if step_s == most_s:
                said_s.append(clock.now_s)
            return step_s < most_s

        return wait

    for name, seconds in (("a", 20), ("b", 20), ("c", 90)):
        log.speak(Stage(name, clock), console, lasts(seconds), 25)
    assert said_s == [125, 150, 175, 200, 225]
    assert out.getvalue().splitlines() == [
        "b, 5 s elapsed",
        "c, 10 s elapsed",
        "c, 35 s elapsed",
        "c, 1 min 00 s elapsed",
        "c, 1 min 25 s elapsed",
    ]


def test_lines_come_while_the_work_does_not_return(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(progress, "_LOG", progress._Log())
    spoken = progress.threading.Event()

    class Noted(Stage):
        def line(self):
            spoken.set()
            return super().line()

    with in_log(Console(file=out), Noted("a download"), period_s=0.0):
        assert spoken.wait(10)
    assert out.getvalue().startswith("a download, 0 s elapsed\n")


def test_a_file_gets_no_moving_line_and_a_terminal_no_plain_one():
    out = Terminal()
    assert not is_live(Console(file=io.StringIO(), _environ={"TERM": "xterm", "FORCE_COLOR": "1"}))
    assert not is_live(Console(file=out, _environ={"TERM": "dumb"}))
    terminal = Console(file=out, width=80, _environ={"TERM": "xterm"})
    assert is_live(terminal)
    with stage(terminal, "reading") as current:
        current.update("reading code", 3, 10)
        current.update(None, 4, 10)
    assert "reading code: 4 of 10" in out.getvalue()
    assert "elapsed" not in out.getvalue()


def test_libraries_draw_no_bars():
    program = (
        "from bench.progress import hide_foreign_bars\n"
        "hide_foreign_bars()\n"
        "import tqdm.auto\n"
        "from huggingface_hub.utils import tqdm as of_hub\n"
        "assert list(tqdm.auto.tqdm('ab')) == list(of_hub('ab')) == ['a', 'b']\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("moves", [True, False])
def test_a_line_beside_a_timing_does_not_move_by_itself(moves):
    class Terminal(io.StringIO):
        num_writes = 0

        def isatty(self):
            return True

        def write(self, text):
            Terminal.num_writes += bool(text)
            return super().write(text)

    console = Console(file=Terminal(), force_terminal=True, _environ={"TERM": "xterm"})
    with stage(console, "checking", moves=moves) as current:
        Terminal.num_writes = 0
        time.sleep(0.6)
        still = Terminal.num_writes
        current.update("checking more")
    assert (still > 0) is moves
    assert "checking" in console.file.getvalue()


def test_the_bar_of_a_run_is_drawn_between_measurements_only():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    console = Console(file=out, force_terminal=True, _environ={"TERM": "xterm"})
    with run_bar(console, {"rounds": 2}, 0) as bar:
        for _ in bar.follow("rounds", ["first", "second"]):
            before = out.getvalue()
            time.sleep(0.4)
            assert out.getvalue() == before
        assert out.getvalue() != before and "2/2" in out.getvalue()
