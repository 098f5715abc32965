"""Fixtures of the tests on a GPU, and the page that they leave."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from bench.device import CudaDevice
from bench.telemetry.nvml import driver_version
from tests.gpu.command import Subprocess
from tests.gpu.page import Page

FOLDER = Path("results/test-gpu")

# What all tests together may take on an H100.
MOST_S = 600

_PAGE, _STARTED_S = Page(), time.monotonic()


@pytest.fixture(scope="session")
def page():
    if "Machine" not in _PAGE.sections and torch.cuda.is_available():
        note_machine(_PAGE)
    return _PAGE


@pytest.fixture(scope="session")
def command():
    return Subprocess()


@pytest.fixture(scope="session")
def device():
    return CudaDevice(0)


def note_machine(page):
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        page.note("Machine", f"gpu={index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    page.note("Machine", "driver", driver_version() or "not known")
    page.note("Machine", "torch", f"{torch.__version__}, CUDA {torch.version.cuda}")
    page.note("Machine", "cuDNN", torch.backends.cudnn.version())


def pytest_terminal_summary(terminalreporter):
    if not _PAGE.sections:
        return
    text = _PAGE.as_markdown(outcome_of(terminalreporter.stats, time.monotonic() - _STARTED_S))
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.md"
    path.write_text(text, "utf-8")
    terminalreporter.write_line(f"\n{text}\nwritten to {path}")


def outcome_of(stats, took_s):
    """Rows of how the tests ended, with every test that failed or was skipped and its reason."""
    counted = {how: len(stats.get(how, [])) for how in ("passed", "failed", "error", "skipped")}
    rows = [("ended", ", ".join(f"{number} {how}" for how, number in counted.items() if number))]
    rows.append(("took", f"{took_s:.0f} s of {MOST_S} s{'' if took_s <= MOST_S else ': TOO LONG'}"))
    for how in ("failed", "error"):
        rows += [(report.nodeid, f"{how}: {_error_of(report.longreprtext)}") for report in stats.get(how, [])]
    for report in stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        rows.append((report.nodeid, reason.removeprefix("Skipped: ")))
    return rows


def _error_of(text):
    return next((line for line in text.splitlines() if line.startswith("E ")), "E")[1:].strip()
