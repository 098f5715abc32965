"""The command line in this process, for tests of many inputs: models load once, figures are not drawn."""

import contextlib
import io
import sys
import traceback
from functools import cache
from typing import NamedTuple

from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from bench import cli
from bench.report import tasks
from bench.select import prepare

_load_once = cache(prepare.load_tokenizer)


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run_here(monkeypatch, *arguments: str) -> Ended:
    """What `python -m bench ARGUMENTS` does; a traceback that a user would see is exit code 99."""
    out, err = io.StringIO(), io.StringIO()
    GlobalHydra.instance().clear()
    with monkeypatch.context() as patched, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patched.setattr(sys, "argv", ["bench", *arguments])
        # Hydra composes everything once more to learn whether this is a sweep.
        patched.setattr(Hydra, "get_mode", lambda *args, **kwargs: RunMode.RUN)
        patched.setattr(prepare, "load_tokenizer", _load_once)
        patched.setattr(tasks, "_drawn", lambda report, folder, formats: report)
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        except BaseException:
            traceback.print_exc()
            code = 99
    return Ended(code, out.getvalue(), err.getvalue())


def check_ended(done: Ended, out) -> None:
    """A result, or one line with exit code 2 that leaves nothing behind."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode in (0, 2), done.stderr
    if done.returncode:
        assert len(lines) == 1 and lines[0].startswith("bench: ") and not out.exists(), done.stderr
    else:
        assert (out / "summary.json").exists(), done.stderr
