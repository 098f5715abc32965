"""`task=predict`: a draft that is not loaded, on a GPU that is not here."""

from pathlib import Path

import pytest
import torch

from tests.test_cli import check_refused, run

EXAMPLE = Path(__file__).parents[1] / "results" / "example"


def said(done) -> str:
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_acceptance_of_a_run_gives_a_size_and_a_speedup():
    text = said(run("task=predict", "gpu=h100-sxm", f"predict.run={EXAMPLE}", "predict.domain=code"))
    assert "k* = " in text and "x plain decoding" in text
    assert "rates of h100-sxm" in text and "the acceptance holds for this draft" in text


def test_a_coverage_curve_gives_the_papers_choice(tmp_path):
    (tmp_path / "curve.csv").write_text("vocab_size,coverage\n64,0.5\n1024,0.95\n49152,1.0\n")
    text = said(run("task=predict", "gpu=l4", f"predict.coverage={tmp_path / 'curve.csv'}"))
    assert "k* = " in text and "coverage is not acceptance" in text and "x plain decoding" not in text


def test_a_measured_run_says_how_near_to_the_limits_a_device_comes():
    arguments = ["task=predict", "gpu=l4", f"predict.run={EXAMPLE}", "predict.draft_length=2"]
    assert "whole data-sheet bandwidth" in said(run(*arguments))
    text = said(run(*arguments, f"predict.calibration={EXAMPLE}"))
    assert "of its bandwidth and launches a kernel in" in text and "as AMD EPYC" in text


def test_a_family_of_cards_is_never_the_card_that_is_here():
    check_refused(
        run("task=predict", "gpu=h100"), ["gpu=h100 is several cards: choose h100-pcie or h100-sxm"]
    )


@pytest.mark.parametrize("gpu", ["h100-sxm", "h100"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_named_gpu_that_is_not_here_is_not_measured(gpu, tmp_path):
    parts = [f"gpu={gpu} is not here: this machine has no GPU", "gpu=auto", "gpu=cpu", "task=predict"]
    check_refused(run(f"gpu={gpu}", f"results_dir={tmp_path}"), parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([f"predict.run={EXAMPLE}", "predict.draft_length=9"], ["predict.draft_length=9", "1, 2, 3"]),
        ([f"predict.run={EXAMPLE}", "predict.domain=poetry"], ["predict.domain=poetry", "function_calling"]),
        (["predict.coverage=nowhere.csv"], ["predict.coverage=nowhere.csv", "cannot be read"]),
        (["predict.dtype=int4"], ["predict.dtype=int4"]),
        ([f"predict.run={EXAMPLE}", "predict.coverage=x.csv"], ["predict.coverage=x.csv", "predict.run"]),
        (["predict.calibration=nowhere"], ["run=nowhere is not a run"]),
    ],
)
def test_what_cannot_be_predicted_is_one_line(arguments, parts):
    check_refused(run("task=predict", "gpu=h100-sxm", *arguments), parts)
