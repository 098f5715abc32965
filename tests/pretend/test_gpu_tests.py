"""The tests that need a GPU, run on the pretend one, so that their own code has run before there is a GPU."""

import json
from types import SimpleNamespace

import pytest
import torch

from bench.device import open_device
from bench.records import SteadyRecord
from bench.runs import run as run_module
from bench.runs.selfcheck import Check, _write
from bench.variant import Variant
from tests.conftest import VOCAB_SIZE
from tests.gpu import conftest, test_agreement, test_command, test_rounds
from tests.gpu.command import Outcome
from tests.gpu.page import Page
from tests.gpu.pairs import EAGLE_3, write_pair
from tests.pretend.conftest import pretend_pair
from tests.report.synthetic import write_run
from tests.select.in_process import run_here
from tests.synthetic_run import append_records
from tests.zoo.targets import Row


class InProcess:
    """The command line on the pretend device, with a tiny pair."""

    effort = least = (
        "vocab.sizes=[full,40]", "measure.draft_lengths=[2]", "measure.max_new_tokens=8",
        "timing.isolated=false", "measure.num_prompts=1",
    )  # fmt: skip

    def __init__(self, monkeypatch, folder):
        self._monkeypatch = monkeypatch
        self.pair = [*write_pair(folder, Row("target", "llama"), EAGLE_3), *self.effort]

    def __call__(self, results, arguments):
        done = run_here(self._monkeypatch, *arguments, f"results_dir={results}")
        return Outcome(done.returncode, done.stdout + done.stderr, results)


@pytest.fixture
def page():
    return Page()


@pytest.fixture
def command(gpu, monkeypatch, tmp_path):
    # Peak rates come from large matrices, which this machine would really multiply.
    monkeypatch.setattr(run_module, "measured_hardware", lambda device, dtype: {})
    return InProcess(monkeypatch, tmp_path / "pair")


def test_the_command_line(command, tmp_path, page):
    run = command(tmp_path / "results", [*command.pair, "gpu=0", *command.effort])
    test_command.test_a_run_measures_and_reports(run, page)
    test_command.test_energy_windows_have_joules_or_a_reason(run, page)
    (section,) = [name for name in page.sections if name.startswith("Run of")]
    rows = dict(page.sections[section])
    # The pretend device launches in 5 us.
    assert rows["one launch"].startswith("5.0") and rows["plain"].endswith("tokens/s")
    assert any("tau" in found for found in rows.values())
    assert dict(page.sections["Energy"]).keys() == {"not known"}


@pytest.mark.slow
def test_a_sampled_run(command, tmp_path, page):
    test_command.test_a_sampled_run_measures(command, tmp_path / "results", page)
    assert page.sections["Sampled, temperature 0.8"]


@pytest.mark.slow
def test_a_target_that_transformers_runs(command, tmp_path, page):
    test_command.test_a_target_that_transformers_runs_is_measured_in_loops_and_keeps_its_text(
        command, tmp_path / "other", page
    )


def test_answers_of_graphs_and_loops_and_what_bfloat16_changes(gpu, page, monkeypatch):
    target, draft = pretend_pair(torch.bfloat16)
    pair, device = SimpleNamespace(target=target, draft=draft, dtype=torch.bfloat16), open_device("cuda:0")
    for module in (test_agreement, test_rounds):
        monkeypatch.setattr(module, "MAX_NEW", 12)
    monkeypatch.setattr(test_agreement, "PROMPTS", [list(range(2, 22))])
    monkeypatch.setattr(test_agreement, "NUM_ANSWERS", 2)
    monkeypatch.setattr(test_rounds, "PROMPTS", 2 * ([5, 9, 33, 7],))
    monkeypatch.setattr(test_rounds, "variants", lambda engine: [Variant(VOCAB_SIZE, 2)])
    test_agreement.test_bfloat16_changes_few_tokens_and_moves_logits_little(device, pair, page)
    pair.target, pair.draft = pretend_pair()
    test_agreement.test_graphs_and_loops_agree_as_often_as_rounding_lets_them(device, pair, page, 3)
    assert dict(page.sections["Graphs against loops, bfloat16"]) == {"gamma = 3": "equal for 100% of a text"}
    test_rounds.test_graphs_give_the_answers_of_the_loops(device, pair, None, page)
    test_rounds.test_rounds_are_shorter_as_graphs(device, pair, page)


# What only another machine has: runs that are made up, in the form in which they are found.


def made_up(results, device, rows=(), windows=()):
    folder = write_run(results / "runs" / "latest")
    values = json.loads((folder / "environment.json").read_text())
    telemetry = {"gpu": {"uuid": f"GPU-{torch.cuda.get_device_properties(1).uuid}"}, "why_not": None}
    values |= {"device": device, "telemetry": telemetry}
    (folder / "environment.json").write_text(json.dumps(values))
    (folder / "report.md").write_text("a report")
    append_records(folder, windows)
    (folder / "telemetry.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Outcome(0, "", results)


def test_two_gpus(gpu, tmp_path, page):
    def command(results, arguments):
        index = next(name for name in arguments if name.startswith("gpu=")).removeprefix("gpu=")
        return made_up(results, f"cuda:{index}")

    command.pair = command.effort = ()
    test_command.test_another_gpu_than_the_first(command, tmp_path / "second", page)
    run = made_up(tmp_path / "alone", "cuda:0")
    test_command.test_two_gpus_at_once_do_not_wait_for_each_other(command, run, tmp_path / "both", page)
    assert page.sections["Two GPUs at once"] == [(f"gpu={i} over gpu=0 alone", "1.00x") for i in (0, 1)]


def test_the_selfcheck(gpu, tmp_path, page):
    """Its verdicts need a clock that runs beside the host's."""

    def command(results, arguments):
        assert "task=selfcheck" in arguments
        checks = [
            Check("A/A full LM head", True, "1.0", ""),
            Check("stationarity", True, "first over second: 1.0", ""),
        ]
        _write(str(results), open_device("cuda:0"), checks)
        return Outcome(0, "", results)

    command.pair = ()
    test_command.test_measurements_are_correct_here(command, tmp_path, page)
    assert page.sections["Selfcheck"] == [
        ("A/A full LM head", "pass: 1.0"),
        ("stationarity", "pass: first over second: 1.0"),
    ]


def test_joules_of_energy_windows(gpu, tmp_path, page):
    rows = [{"time_s": 100 + 0.1 * i, "power_w": 300.0 + i % 3, "energy_j": 30.1 * i} for i in range(60)]
    run = made_up(tmp_path, "cuda:0", rows, [SteadyRecord("code", 10, 3, 500, 101.0, 104.0)])
    test_command.test_energy_windows_have_joules_or_a_reason(run, page)
    ((what, found),) = page.sections["Energy"]
    assert what == "k = 10, gamma = 3" and found.startswith("1.80") and "301 W" in found


def test_the_page_names_what_failed_and_what_was_skipped_and_why():
    failed = SimpleNamespace(nodeid="test_a", longreprtext="line\nE   assert 1 == 2\nE    +  where 1")
    skipped = SimpleNamespace(nodeid="test_b", longrepr=("file", 3, "Skipped: needs two GPUs; 1 are visible"))
    rows = conftest.outcome_of({"passed": [1, 2], "failed": [failed], "skipped": [skipped]}, 12.3)
    assert rows == [
        ("ended", "2 passed, 1 failed, 1 skipped"),
        ("took", "12 s of 600 s"),
        ("test_a", "failed: assert 1 == 2"),
        ("test_b", "needs two GPUs; 1 are visible"),
    ]
    page = Page()
    page.note("Machine", "gpu=0", "a | b")
    text = page.as_markdown(rows)
    assert "| gpu=0 | a \\| b |" in text and "## Tests" in text and text.startswith("# What")
