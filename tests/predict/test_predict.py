"""`task=predict`: a draft that is not loaded, on a GPU that is not here."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from bench.analysis.run import read_run
from bench.analysis.surfaces import Surfaces
from bench.config import (
    Config,
    DomainConfig,
    GpuConfig,
    MeasureConfig,
    PairConfig,
    PredictConfig,
    VocabConfig,
)
from bench.config.gpu import PeakConfig, SpecConfig
from bench.cost.shape import DraftShape
from bench.errors import ConfigError
from bench.predict import run_predict
from bench.predict.acceptance import acceptance_from_coverage, known_acceptance
from tests.fit.synthetic import smollm2_draft
from tests.select.in_process import run_here
from tests.test_cli import check_refused

EXAMPLE = Path(__file__).parents[2] / "results" / "example"
# Published tables would be downloaded.
SHEET = "predict.source=data_sheet"
PAIR = PairConfig("p", "smollm2-135m-instruct", "smollm2-135m-eagle3")


def config_of(
    gpu: GpuConfig | None = None, dtype: str = "auto", predict_dtype: str | None = None, **predict
) -> Config:
    measure = MeasureConfig([1, 2, 4], 8, 64)
    return Config(
        PAIR,
        DomainConfig("code"),
        gpu or GpuConfig(),
        VocabConfig(["full"]),
        measure,
        predict=PredictConfig(dtype=predict_dtype, **predict),
        dtype=dtype,
    )


@pytest.fixture
def run(monkeypatch):
    """The command line in this process."""
    return partial(run_here, monkeypatch)


def table_of(folder: Path, text: str) -> str:
    (folder / "curve.csv").write_text(text.replace(" ", "\n") + "\n")
    return str(folder / "curve.csv")


def said(done) -> str:
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_acceptance_of_a_run_gives_a_size_a_draft_length_and_a_speedup(run):
    text = said(
        run("task=predict", "gpu=h100-sxm", SHEET, f"predict.run={EXAMPLE}", "predict.domain=writing")
    )
    assert "k* = " in text and " with gamma = " in text and "x plain decoding" in text
    assert "rates of h100-sxm" in text and "the fastest of 1, 2, 3, 4, 5, 6" in text
    assert "the acceptance that run example measured on writing (smollm2-135m) holds" in text


def test_the_acceptance_is_that_of_the_run():
    surface = Surfaces(read_run(EXAMPLE)).of("code")
    sizes, gammas, known = known_acceptance(config_of(run=str(EXAMPLE)), smollm2_draft())
    assert gammas == (1, 2, 3, 4, 5, 6)
    assert known.mean_length[:, -1] == pytest.approx(surface.mean_acceptance_length[:, -1])
    column, place = surface.column(1627), int(np.searchsorted(sizes, 1627))
    assert known.mean_length[:, place] == pytest.approx(surface.mean_acceptance_length[:, column])
    _, gammas, one = known_acceptance(config_of(run=str(EXAMPLE), draft_length=2), smollm2_draft())
    assert gammas == (2,) and (one.mean_length[0] == known.mean_length[1]).all()
    assert "run example measured on code" in one.origin


def test_a_coverage_curve_gives_the_papers_choice(tmp_path, run):
    curve = table_of(tmp_path, "vocab_size,coverage 64,0.5 1024,0.95 49152,1.0")
    text = said(run("task=predict", "gpu=l4", SHEET, f"predict.coverage={curve}"))
    assert "k* = " in text and "coverage is not acceptance" in text and "x plain decoding" not in text


def test_a_coverage_with_an_acceptance_gives_a_speedup(tmp_path, run):
    curve = table_of(tmp_path, "vocab_size,coverage 1000,0.5 2000,0.75")
    sizes, gammas, known = known_acceptance(config_of(coverage=curve, full_acceptance=0.8), smollm2_draft())
    assert gammas == (1, 2, 4)
    places = np.searchsorted(sizes, [1000, 2000, 49152])
    assert known.coverage[places] == pytest.approx([0.5, 0.75, 1.0])
    # One token of 0.8 C(k): 1 + 0.4, 1 + 0.6 and 1 + 0.8.
    assert known.mean_length[0, places] == pytest.approx([1.4, 1.6, 1.8])
    assert known.mean_length[2] == pytest.approx(acceptance_from_coverage(known.coverage, 0.8, 4))
    _, _, with_one = known_acceptance(
        config_of(coverage=curve, full_acceptance=0.8, draft_length=3), smollm2_draft()
    )
    assert with_one.mean_length.shape == (1, len(sizes))
    arguments = [f"predict.coverage={curve}", "predict.full_acceptance=0.8"]
    text = said(run("task=predict", "gpu=l4", SHEET, *arguments))
    assert "x plain decoding" in text and "accepted with chance 0.8 C(k)" in text


def test_nothing_is_said_of_sizes_outside_the_table(tmp_path):
    for text in ("1024,0.9 8192,0.97 49152,1.0", "1024,0.9 8192,0.97"):
        curve = table_of(tmp_path, f"vocab_size,coverage {text}")
        sizes, _, known = known_acceptance(config_of(coverage=curve), smollm2_draft())
        assert (sizes[0], sizes[-1]) == (1024, 49152)
        assert (known.coverage[0], known.coverage[-1]) == (0.9, 1.0)
        assert {1024, 8192} <= set(sizes)
    # Beyond the table only the full vocabulary is known.
    assert sizes[-2] == 8192


def test_a_table_of_several_domains_needs_one():
    table = str(EXAMPLE / "summary.csv")
    with pytest.raises(ConfigError, match="mixes domains: set predict.domain to code or function_calling or"):
        known_acceptance(config_of(coverage=table), smollm2_draft())
    with pytest.raises(ConfigError, match="predict.domain=poetry: .* is of code, function_calling, writing"):
        known_acceptance(config_of(coverage=table, domain="poetry"), smollm2_draft())
    _, _, known = known_acceptance(config_of(coverage=table, domain="code"), smollm2_draft())
    assert known.coverage[-1] == 1.0 and (np.diff(known.coverage) >= 0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vocab_size,coverage 64,0.5 64,0.6", "has several coverages of vocab_size 64; give one curve"),
        ("vocab_size,coverage 64,0.5 128,0.4", "coverage must not fall with vocab_size"),
        ("vocab_size,coverage 64,1.5", "coverage must lie between 0 and 1"),
        ("vocab_size,coverage 64,0.5 128256,1.0", "sizes 64 to 128,256, but the draft has 49,152 tokens"),
        ("vocab_size,covered 64,0.5", "needs the columns vocab_size and coverage"),
    ],
)
def test_a_table_that_is_no_curve_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        known_acceptance(config_of(coverage=table_of(tmp_path, text)), smollm2_draft())


def test_a_draft_of_another_vocabulary_has_another_acceptance():
    shape = smollm2_draft()
    other = DraftShape(**{**vars(shape), "draft_vocab_size": 32000})
    with pytest.raises(ConfigError, match="is of a draft of 49,152 tokens, this one has 32,000"):
        known_acceptance(config_of(run=str(EXAMPLE)), other)


def predicted(**options) -> tuple[str, object]:
    sheet = SpecConfig("by hand", 300.0, 16.0, peak_tflops=PeakConfig(float32=8.0, float16=65.0))
    console = Console(file=io.StringIO(), width=400)
    found = run_predict(config_of(GpuConfig(name_pattern="X1", spec=sheet), **options), console)
    return console.file.getvalue(), found


def test_the_dtype_is_that_of_the_run_unless_told_otherwise():
    with pytest.raises(ConfigError, match=r"no peak for bfloat16 \(by hand\): set predict.dtype=float16 or"):
        predicted()
    text, single = predicted(dtype="float32")
    assert "float32, 512 positions held" in text
    text, half = predicted(predict_dtype="float16", dtype="float32")
    assert "float16, 512 positions held" in text
    assert half.draft_step_ms[-1] < single.draft_step_ms[-1]


def test_a_launch_can_cost_what_an_engine_takes():
    text, eager = predicted(dtype="float32")
    assert "every kernel is launched eagerly, in 5 us" in text
    text, captured = predicted(dtype="float32", launch_us=0.5)
    assert "every kernel is launched in 0.5 us (predict.launch_us)" in text
    # 33 kernels of a trimmed step: 4.5 us less each.
    assert eager.draft_step_ms[0] - captured.draft_step_ms[0] == pytest.approx(33 * 4.5e-3)


def test_a_measured_run_says_how_near_to_the_limits_a_device_comes(run):
    arguments = ["task=predict", "gpu=l4", SHEET, f"predict.run={EXAMPLE}", "predict.draft_length=2"]
    assert "reaches its whole bandwidth" in said(run(*arguments))
    text = said(run(*arguments, f"predict.calibration={EXAMPLE}"))
    assert "of its bandwidth, as AMD EPYC" in text and "every kernel is launched in" in text


def test_a_family_of_cards_is_never_the_card_that_is_here(run):
    check_refused(
        run("task=predict", "gpu=h100"), ["gpu=h100 is several cards: choose h100-pcie or h100-sxm"]
    )


@pytest.mark.parametrize("gpu", ["h100-sxm", "h100"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_named_gpu_that_is_not_here_is_not_measured(gpu, tmp_path, run):
    parts = [f"gpu={gpu} is not here: this machine has no GPU", "gpu=auto", "gpu=cpu", "task=predict"]
    check_refused(run(f"gpu={gpu}", f"results_dir={tmp_path}"), parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([f"predict.run={EXAMPLE}", "predict.draft_length=9"], ["predict.draft_length=9", "1, 2, 3"]),
        ([f"predict.run={EXAMPLE}", "predict.domain=poetry"], ["predict.domain=poetry", "function_calling"]),
        (["predict.coverage=nowhere.csv"], ["predict.coverage=nowhere.csv", "cannot be read"]),
        (["predict.dtype=int4"], ["predict.dtype=int4"]),
        (["predict.full_acceptance=0.5"], ["predict.full_acceptance=0.5", "predict.coverage is not set"]),
        (["predict.launch_us=-1"], ["predict.launch_us=-1", "0 or above"]),
        ([f"predict.run={EXAMPLE}", "predict.coverage=x.csv"], ["predict.coverage=x.csv", "predict.run"]),
        (["predict.calibration=nowhere"], ["run=nowhere is not a run"]),
        (["gpu=t4"], ["t4 has no peak for bfloat16", "predict.dtype=float16"]),
    ],
)
def test_what_cannot_be_predicted_is_one_line(arguments, parts, run):
    gpu = [] if "gpu=t4" in arguments else ["gpu=h100-sxm", SHEET]
    check_refused(run("task=predict", *gpu, *arguments), parts)
