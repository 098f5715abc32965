"""A run that is killed, starved or out of memory, and the same command again: every case once, none lost."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from bench.records import EndRecord, FailureRecord, IsolatedRecord, PlanRecord, SessionRecord, read_records
from tests.test_cli import ROOT, run

NUM_PROMPTS = 2
SMALL = [
    "domain=code", "gpu=cpu",
    "vocab.sizes=[full,1024]", "measure.draft_lengths=[1,2]",
    "timing.budget_s=0.01", "timing.min_warmup_s=0", "timing.max_warmup_s=0.01", "timing.samples_per_block=2",
    f"measure.num_prompts={NUM_PROMPTS}", "measure.acceptance_prompts=null",
    "measure.max_new_tokens=8", "measure.bootstrap_samples=100",
    "telemetry.steady_s=0",
    # Two prompts beside other tests: what is tried is whether they are measured, not whether they say much.
    *(f"limits.{name}=null" for name in ("drift", "disturbed", "foreign_load", "half_width", "residual")),
]  # fmt: skip
NUM_KILLS = 3

# What the command line does, but a part of it fails as it would on a machine that is short of memory.
STARVED = """
import sys
from bench.decoding.torch_engine import TorchEngine
whole, starved = TorchEngine.decode, []
def decode(self, prepared, variant, max_rounds=None, with_laps=True):
    is_full_draft = variant.vocab_size == 49152 and not variant.is_plain
    if max_rounds is None and is_full_draft and not starved:
        starved.append(True)
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\\nmore")
    return whole(self, prepared, variant, max_rounds, with_laps)
TorchEngine.decode = decode
from bench.cli import main
main()
"""


def cases(folder: Path) -> Counter:
    """Every measured case; which variants are decoded is each run's choice, so these go by their number."""
    found: Counter = Counter()
    for record in read_records(folder):
        case = record.identity
        if case and case[0] in ("decode", "check"):
            planned = [r for r in read_records(folder) if isinstance(r, PlanRecord)]
            variants = [item.variant for item in planned[0].planned]
            case = (*case[:3], variants.index(record.variant))
        if case:
            found[case] += 1
    return found


def only_run(results: Path) -> Path:
    (folder,) = [p for p in (results / "runs").glob("2*") if p.is_dir()]
    return folder


def check_whole(folder: Path) -> None:
    found, records = cases(folder), list(read_records(folder))
    (plan,) = [r for r in records if isinstance(r, PlanRecord)]
    assert isinstance(records[-1], EndRecord)
    assert {case[0] for case in found} == {
        "ranking",
        "plan",
        "replay",
        "check",
        "probe",
        "decode",
        "isolated",
        "baseline",
    }
    decodes = {case: n for case, n in found.items() if case[0] == "decode"}
    assert len(decodes) == NUM_PROMPTS * len(plan.planned) and set(decodes.values()) == {1}
    assert (folder / "report.md").exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    results = tmp_path_factory.mktemp("undisturbed")
    done = run(*SMALL, f"results_dir={results}")
    assert done.returncode == 0, done.stderr
    check_whole(only_run(results))
    return cases(only_run(results))


def without_decodes(found: Counter) -> Counter:
    return Counter({case: n for case, n in found.items() if case[0] not in ("decode", "check")})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_again_and_again(tmp_path, undisturbed):
    rng = random.Random(112)  # its last kill comes while parts are timed on their own
    command = [sys.executable, "-m", "bench", *SMALL, f"results_dir={tmp_path}"]
    for _ in range(NUM_KILLS):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for_records(process, tmp_path, more=rng.randrange(1, sum(undisturbed.values()) // NUM_KILLS))
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    path = only_run(tmp_path) / "records.jsonl"
    with path.open("a") as file:
        file.write('{"schema": 2, "kind": "deco')  # as a kill in the middle of a write would leave it
    done = run(*SMALL, f"results_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "resuming" in said and "its last line was incomplete and was removed" in said
    check_whole(only_run(tmp_path))
    assert without_decodes(cases(only_run(tmp_path))) == without_decodes(undisturbed)
    sessions = [r for r in read_records(only_run(tmp_path)) if isinstance(r, SessionRecord)]
    assert len(sessions) == NUM_KILLS + 1
    # What was timed on its own before the last kill was kept, and the rest came after it.
    kinds = [type(r) for r in read_records(only_run(tmp_path))]
    last = len(kinds) - 1 - kinds[::-1].index(SessionRecord)
    assert IsolatedRecord in kinds[:last] and IsolatedRecord in kinds[last:]
    assert f"Measured in {NUM_KILLS + 1} sessions" in (only_run(tmp_path) / "report.md").read_text("utf-8")


def _wait_for_records(process: subprocess.Popen, results: Path, more: int) -> None:
    wanted = None
    while process.poll() is None:
        paths = list((results / "runs").glob("2*/records.jsonl"))
        num_lines = paths[0].read_bytes().count(b"\n") if paths else 0
        # The first look is before the process writes: it takes seconds to start.
        wanted = num_lines + more if wanted is None else wanted
        if num_lines >= wanted:
            return
        time.sleep(0.01)
    pytest.fail("the run ended before it could be killed")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_case_without_memory_fails_alone_and_is_tried_again(tmp_path, undisturbed):
    arguments = [*SMALL, f"results_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", STARVED, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    folder = only_run(tmp_path)
    failures = [r for r in read_records(folder) if isinstance(r, FailureRecord)]
    assert [(r.case[0], r.case[3]) for r in failures] == [("decode", 49152)]
    assert failures[0].message == "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert "Could not be measured: decode code" in done.stdout
    assert len(done.stderr.splitlines()) == 1 and "1 cases could not be measured" in done.stderr
    assert "RuntimeError: CUDA out of memory" in (folder / "report.md").read_text("utf-8")
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    check_whole(folder)
    assert without_decodes(cases(folder)) == without_decodes(undisturbed)
