import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench.errors import ConfigError, OutputError
from bench.report.tasks import diff_runs, find_folders, report_runs
from tests.analysis.conftest import LABELS

ROOT = Path(__file__).parents[2]


def test_runs_are_found_by_name(run_folders):
    runs_dir = run_folders[0].parent
    assert find_folders(runs_dir, [folder.name for folder in run_folders]) == run_folders
    (runs_dir / "latest").symlink_to(run_folders[2].name)
    assert find_folders(runs_dir, ["latest"]) == [run_folders[2]]
    (runs_dir / "latest").unlink()


@pytest.mark.slow
def test_a_report_of_three_devices_start_to_end(run_folders, tmp_path):
    console = Console(file=io.StringIO(), width=200)
    page = report_runs(run_folders, run_folders[0].parent, tmp_path / "reports", None, console)
    assert page == tmp_path / "reports" / "l4-and-2-more" / "index.html" and page.exists()
    said = console.file.getvalue()
    for label in LABELS:
        assert label in said


def test_a_difference_start_to_end(run_folders, tmp_path):
    folders, console = run_folders, Console(file=io.StringIO(), width=200)
    with pytest.raises(ConfigError, match="task=diff takes two runs, not 3"):
        diff_runs(folders, 0.02, tmp_path / "reports", None, console)
    # 1.9 against 1.5 ms of verification: slower by far, and faster the other way round.
    assert diff_runs(folders[:2], 0.02, tmp_path / "reports", None, console) == 1
    assert diff_runs(folders[1::-1], 0.02, tmp_path / "reports", None, console) == 0
    assert (tmp_path / "reports" / "diff-h700-h350" / "tables" / "times.csv").exists()


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="run=nosuch is not a run"):
        find_folders(tmp_path, ["nosuch"])


def test_other_devices_are_for_the_other_task(run_folders, tmp_path):
    text = "h700 was measured on NVIDIA H100 80GB HBM3 and l4 on NVIDIA L4: task=diff is for one device"
    with pytest.raises(ConfigError, match=text):
        diff_runs([run_folders[0], run_folders[2]], 0.02, tmp_path, None, Console(file=io.StringIO()))


def test_a_place_that_cannot_be_written(run_folders, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write into .*file/out.*; set out"):
        diff_runs(run_folders[:2], 0.02, tmp_path, tmp_path / "file" / "out", Console(file=io.StringIO()))


def test_the_command_line_exits_with_1_where_it_is_slower(run_folders, tmp_path):
    before, after = run_folders[:2]
    command = [
        sys.executable,
        "-m",
        "bench",
        "task=diff",
        f"runs=[{before},{after}]",
        f"out={tmp_path / 'out'}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "slower: " in done.stdout and done.stderr == ""
