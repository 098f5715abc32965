"""The verdict on devices whose latency law is known."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bench.errors import FitError
from bench.fit.judge import Judgement, judge, sentence, to_json
from bench.fit.series import VERIFY, Goals, LatencySeries, SpeedGoal, UtilityGoal, verify_work
from tests.fit.synthetic import (
    SIZES,
    blocked_series,
    bytes_law,
    decoder_lm,
    device,
    flops_law,
    series,
    step_work,
)

KS = np.unique(np.geomspace(512, 49152, 60).astype(int))


def speed_goal(runs_per_round: int = 3) -> SpeedGoal:
    tau = 1 + 1.2 * (1 - np.exp(-KS / 3000))
    return SpeedGoal(KS, 1 / tau, runs_per_round, other_ms=3.0)


def goals():
    return {"code": Goals(3, speed_goal(), UtilityGoal(KS, 1 - np.exp(-KS / 2000)))}


def verdict(judged, spec=None) -> str:
    return sentence(Judgement("X1", "bfloat16", spec, {"draft_step": judged}), "draft_step")


@pytest.fixture(scope="module")
def affine():
    """Launches of 1 ms, and 20 GB/s of a hundred."""
    return judge(series(bytes_law(1.0, 2e10), 0.01), device(), "bfloat16", goals(), num_resamples=200)


def test_the_law_behind_the_data_is_the_best_model(affine):
    assert affine.best == "bytes_affine"
    assert affine.model("bytes_affine").scores.loo_mape < 0.01
    assert affine.model("flops_published").scores.mape > 0.2


def test_flops_are_best_where_flops_are_the_law():
    data = series(lambda work: 1e3 * work.flops / 2e10, 0.002)
    judged = judge(data, None, "bfloat16", num_resamples=50)
    assert judged.best == "flops_proportional"


def test_the_published_model_promises_too_much(affine):
    measured = [reduction.value for reduction in affine.reductions]
    published = affine.model("flops_published").reduction
    assert measured[-1] == published[-1] == 0
    assert (published[:-1] > np.array(measured[:-1])).all()
    gap = 100 * (published - measured)[:-1].max()
    assert verdict(affine).startswith(
        "On X1, FLOPs overestimate the saving of a smaller vocabulary by up to "
    )
    assert f" by up to {gap:.1f} percentage points (k = " in verdict(affine)
    assert "t0 + B/W predicts held-out sizes within 0." in verdict(affine)


def test_the_verdict_says_where_flops_are_right_or_promise_too_little():
    exact = judge(series(lambda w: 1e3 * w.published_flops / 2e10, 0.02), None, "bfloat16", num_resamples=50)
    assert "FLOPs predict the saving of a smaller vocabulary within the measurement's error" in verdict(exact)
    steeper = judge(
        series(lambda w: (w.sizes / 49152.0) ** 1.5 + 1e-3, 0.002), None, "bfloat16", num_resamples=50
    )
    assert "FLOPs underestimate the saving of a smaller vocabulary by up to" in verdict(steeper)


def test_a_model_is_judged_by_what_it_would_choose(affine):
    truth, paper = (
        affine.model(name).decisions["code"].speed for name in ("bytes_affine", "flops_published")
    )
    assert truth.regret_share < 1e-3
    assert paper.best_vocab_size == truth.best_vocab_size
    assert paper.regret >= 0 and paper.vocab_size != paper.best_vocab_size
    utility = affine.model("bytes_affine").decisions["code"].utility
    assert utility.regret < 1e-3


def test_distance_to_the_limits():
    spec = device(memory=1e11, peak=1e12)
    judged = judge(series(bytes_law(1.0, 2e10)), spec, "bfloat16", num_resamples=20)
    work, seconds = step_work(), (1.0 + 1e3 * step_work().total_bytes / 2e10) / 1e3
    efficiency = judged.efficiency
    assert efficiency.bandwidth_share == pytest.approx(work.total_bytes / seconds / 1e11)
    assert efficiency.peak_share == pytest.approx(work.flops / seconds / 1e12)
    assert efficiency.launch_share == pytest.approx(1e-3 / seconds, rel=1e-4)
    assert efficiency.launch_model == "bytes_affine"
    # a large head runs at the 20% of bandwidth that the law gives it, less its launches
    assert efficiency.bandwidth_share[-1] == pytest.approx(0.2 * (1 - efficiency.launch_share[-1]), rel=1e-3)


def test_without_a_data_sheet_limits_are_unknown():
    judged = judge(series(bytes_law(), 0.01), None, "bfloat16", num_resamples=20)
    assert (judged.efficiency.bandwidth_share, judged.efficiency.peak_share) == (None, None)
    assert {unfit.model.name for unfit in judged.unfit} == {"roofline_datasheet"}


def test_measured_reductions_have_intervals_that_hold_them():
    judged = judge(series(bytes_law(), 0.05), None, "bfloat16", num_resamples=200)
    for reduction in judged.reductions[:-1]:
        assert reduction.ci_low < reduction.value < reduction.ci_high
    assert judged.reductions[-1].ci_low == judged.reductions[-1].ci_high == 0


def test_too_few_sizes_leave_no_best():
    judged = judge(series(bytes_law(), work=step_work(SIZES[:1])), None, "bfloat16", num_resamples=20)
    assert judged.best is None and judged.models == []
    assert "more sizes must be measured" in verdict(judged)


def test_a_verification_is_judged_without_a_vocabulary():
    work = verify_work(decoder_lm(), np.arange(1, 9), 200)
    data = LatencySeries(VERIFY, work, [np.array([40 + 0.5 * n]) for n in range(1, 9)])
    judged = judge(data, None, "bfloat16", num_resamples=50)
    assert judged.best == "flops_affine"
    said = sentence(Judgement("X1", "bfloat16", None, {VERIFY: judged}), VERIFY)
    assert "saving" not in said and "t0 + F/P predicts held-out sizes within 0.0% on average." in said
    with pytest.raises(FitError, match="a verification has no vocabulary"):
        judge(data, None, "bfloat16", goals(), num_resamples=20)


def test_candidates_beyond_the_measured_sizes_are_refused():
    data = series(bytes_law(), work=step_work(SIZES[2:]))
    with pytest.raises(FitError, match="candidates 512 to 49152 go beyond the measured sizes, 2048 to 49152"):
        judge(data, None, "bfloat16", goals(), num_resamples=20)


def test_doubts_stand_in_the_verdict_and_in_the_file():
    data = blocked_series(bytes_law(), 0.02, 3, work=step_work(SIZES[[0, 4, 9]]))
    judgement = Judgement(
        "X1", "bfloat16", None, {"draft_step": judge(data, None, "bfloat16", num_resamples=20)}
    )
    told = "intervals rest on 3 prompts only"
    assert told in sentence(judgement, "draft_step")
    component = json.loads(to_json(judgement))["components"]["draft_step"]
    assert component["num_prompts"] == 3 and told in component["interval_doubt"]


def test_the_file_holds_every_component_and_model(affine):
    spec = device()
    values = json.loads(to_json(Judgement("X1", "bfloat16", spec, {"draft_step": affine})))
    assert (values["schema"], values["device_name"], values["dtype"]) == (1, "X1", "bfloat16")
    assert values["hardware"]["memory_bytes_per_s"] == 1e11
    component = values["components"]["draft_step"]
    assert component["best"] == "bytes_affine" and component["size_is"] == "vocab_size"
    assert component["sizes"] == SIZES.tolist()
    assert component["sentence"] == verdict(affine)
    model = component["models"]["bytes_affine"]
    t0 = model["coefficients"]["t0_ms"]
    assert t0["unit"] == "ms" and t0["ci_low"] < t0["value"] < t0["ci_high"]
    assert {"r2", "mape", "loo_mape", "worst_error", "aicc"} <= model.keys()
    decision = affine.model("bytes_affine").decisions["code"].speed
    assert (model["chosen_k"], model["regret_tokens_per_s"]) == (decision.vocab_size, decision.regret)
    assert (model["domain"], model["draft_length"]) == ("code", 3)
    assert model["decisions"] == {"code": {name: model[name] for name in model["decisions"]["code"]}}
    assert component["models"]["roofline"]["coefficients"]["flops_per_s"]["value"] is None
    assert component["unfit"] == {}


def test_without_goals_no_k_is_chosen():
    judged = judge(series(flops_law(), 0.01), None, "bfloat16", num_resamples=20)
    values = json.loads(to_json(Judgement("X1", "bfloat16", None, {"draft_step": judged})))
    model = values["components"]["draft_step"]["models"]["flops_affine"]
    assert (model["chosen_k"], model["regret_tokens_per_s"], values["hardware"]) == (None, None, None)
    assert (model["domain"], model["draft_length"], model["decisions"]) == (None, None, {})


def test_fitting_needs_no_torch():
    code = "import bench.fit.judge, bench.analysis.fit, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
