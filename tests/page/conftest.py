"""Pages that several tests read."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from bench.report.tasks import report_runs
from tests.analysis.conftest import run_folders  # noqa: F401
from tests.page.twin import EXAMPLE, write_twin


def make_page(folders: list[Path], root: Path) -> Path:
    console = Console(file=io.StringIO(), width=120)
    return report_runs(folders, root / "runs", root / "reports", None, console)


@pytest.fixture(scope="session")
def example_page(tmp_path_factory) -> Path:
    """Of the example run alone."""
    return make_page([EXAMPLE], tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="session")
def merged_page(tmp_path_factory) -> Path:
    """Of the example run and a synthetic second GPU, copied from another machine."""
    root = tmp_path_factory.mktemp("two")
    # A folder that holds runs stands for all of them.
    return make_page([EXAMPLE, write_twin(root / "copied" / "twin").parent], root)
