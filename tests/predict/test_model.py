"""Predictions from configurations alone, against the formulas worked out here."""

import numpy as np
import pytest

from bench.config.gpu import match
from bench.cost.hardware import HardwareSpec
from bench.cost.shape import Pass, PassCost, total_cost
from bench.errors import FitError
from bench.predict.acceptance import Acceptance, acceptance_from_coverage
from bench.predict.model import Calibration, DataSheetLatency, Setting, predict_draft
from tests.fit.synthetic import SIZES, decoder_lm, device, smollm2_draft

SPEC = device(memory=1e11, peak=1e12)
SETTING = Setting(draft_lengths=(3,), context_length=100)


def sheet(calibration=None, dtype="bfloat16") -> DataSheetLatency:
    return DataSheetLatency(SPEC, dtype, calibration or Calibration())


NO_LAUNCHES = sheet(Calibration(launch_us=0.0))


def test_latency_is_launches_and_the_slower_limit():
    cost = PassCost(flops=2 * 10**9, weight_bytes=10**8, num_launches=10)
    # 2 ms of compute, 1 ms of memory, 10 launches of 5 us
    assert sheet().ms(cost) == pytest.approx(2.05)
    half = Calibration(bandwidth_share=0.25, peak_share=1.0, launch_us=10.0)
    assert sheet(half).ms(cost) == pytest.approx(4.1)
    with pytest.raises(FitError, match="X1 has no peak for float32: by hand gives none"):
        sheet(dtype="float32").ms(cost)


def test_a_round_is_drafting_and_verification():
    draft, target = smollm2_draft(), decoder_lm()
    found = predict_draft(draft, target, NO_LAUNCHES, SIZES, SETTING)
    place, k = 3, int(SIZES[3])

    def time(parts):
        return NO_LAUNCHES.ms(total_cost(parts))

    one = Pass(context_length=100)
    step, first = time(draft.cost(one, k)), time(draft.cost(one, k, with_fc=True))
    assert found.draft_step_ms[place] == pytest.approx(step)
    assert found.round_ms[place] == pytest.approx(first + 2 * step + time(target.cost(Pass(4, 100))))
    assert found.plain_token_ms == pytest.approx(time(target.cost(one)))
    assert (found.speedup, found.utility, found.chosen_k) == (None, None, None)
    assert "neither acceptance nor coverage is given" in found.assumptions[-1]


def test_a_measured_acceptance_gives_speedup_and_k():
    tau = 1 + 1.5 * (1 - np.exp(-SIZES / 2000))
    found = predict_draft(smollm2_draft(), decoder_lm(), NO_LAUNCHES, SIZES, SETTING, Acceptance(tau[None]))
    assert found.speedup == pytest.approx(tau * found.plain_token_ms / found.round_ms)
    assert found.chosen_k == SIZES[np.argmax(found.speedup)]
    assert 512 < found.chosen_k < 49152
    assert "the acceptance holds for this draft, target and text" in found.assumptions


def test_the_fastest_draft_length_of_every_size_is_taken():
    setting = Setting(draft_lengths=(1, 3), context_length=100)
    # Small vocabularies never get a second token right, large ones get all three.
    tau = np.stack([np.full(10, 1.9), np.where(SIZES < 4096, 1.9, 3.9)])
    known = Acceptance(tau, "as measured")
    found = predict_draft(smollm2_draft(), decoder_lm(), NO_LAUNCHES, SIZES, setting, known)
    each = [
        predict_draft(
            smollm2_draft(), decoder_lm(), NO_LAUNCHES, SIZES,
            Setting(draft_lengths=(gamma,), context_length=100), Acceptance(row[None]),
        )
        for gamma, row in zip((1, 3), tau, strict=True)
    ]  # fmt: skip
    assert found.draft_lengths.tolist() == np.where(SIZES < 4096, 1, 3).tolist()
    assert found.speedup == pytest.approx(np.maximum(each[0].speedup, each[1].speedup))
    assert found.round_ms[[0, -1]] == pytest.approx([each[0].round_ms[0], each[1].round_ms[-1]])
    assert found.chosen_k == 4096
    assert found.assumptions[-1] == "as measured"
    assert "drafted tokens a round: the fastest of 1, 3" in found.assumptions[4]


def test_a_coverage_alone_gives_the_papers_choice_and_a_warning():
    coverage = 1 - np.exp(-SIZES / 2000)
    known = Acceptance(coverage=coverage)
    found = predict_draft(smollm2_draft(), decoder_lm(), NO_LAUNCHES, SIZES, SETTING, known)
    saved = 1 - found.draft_step_ms / found.draft_step_ms[-1]
    assert found.speedup is None
    assert found.utility == pytest.approx(0.5 * coverage + 0.5 * saved)
    assert found.chosen_k == SIZES[np.argmax(found.utility)]
    assert "coverage is not acceptance" in found.assumptions[-1]


def test_launches_flatten_what_trimming_saves():
    free, eager = (
        predict_draft(smollm2_draft(), decoder_lm(), latency, SIZES, SETTING).draft_step_ms
        for latency in (NO_LAUNCHES, sheet())
    )
    assert free[0] / free[-1] < eager[0] / eager[-1]
    # 32 kernels, and one more where ids are looked up
    assert eager - free == pytest.approx(5e-3 * np.array([33] * 9 + [32]))


def test_a_measured_device_calibrates_another():
    step = total_cost(smollm2_draft().cost(Pass(context_length=100)))
    found = Calibration.measured(0.64, 6e10, step, SPEC, "X1")
    assert (found.bandwidth_share, found.launch_us) == pytest.approx((0.6, 20.0))
    assert found.origin == "the device reaches 60% of its bandwidth, as X1 did, and its whole peak"
    assert found.launch_origin == "every kernel is launched in 20.0 us, as on X1"
    assert sheet(found).ms(step) == pytest.approx(0.64 + 1e3 * step.total_bytes / 6e10)


def test_assumptions_name_the_data_sheet():
    h100 = match("NVIDIA H100 80GB HBM3")
    latency = DataSheetLatency(h100, "bfloat16")
    found = predict_draft(smollm2_draft(), decoder_lm(), latency, SIZES, SETTING)
    assert found.assumptions[0] == "rates of h100-sxm: NVIDIA H100 Tensor Core GPU data sheet"
    assert "real steps are slower" in found.assumptions[1]


def test_acceptance_from_coverage_by_hand():
    # 1 + 1/2 + 1/4, and 1 + 1 + 1
    assert acceptance_from_coverage(np.array([0.5, 1.0]), 1.0, 2) == pytest.approx([1.75, 3.0])
    assert acceptance_from_coverage(np.array([1.0]), 0.5, 2) == pytest.approx([1.75])


def test_what_cannot_be_is_refused():
    with pytest.raises(FitError, match="dtype=int4 is unknown; it must be one of float32, bfloat16, float16"):
        Setting(dtype="int4")
    with pytest.raises(FitError, match="draft lengths must be at least 1"):
        Setting(draft_lengths=(0,))
    with pytest.raises(FitError, match="shares of bandwidth and peak must be above 0"):
        Calibration(bandwidth_share=0.0)
    t4 = HardwareSpec("t4", "sheet", None, {"float16": 65e12}, 3e11, None, None)
    with pytest.raises(FitError, match="t4 has no peak for bfloat16"):
        predict_draft(smollm2_draft(), decoder_lm(), DataSheetLatency(t4, "bfloat16"), SIZES, SETTING)
