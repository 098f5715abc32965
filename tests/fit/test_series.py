import numpy as np
import pytest

from bench.cost.shape import Pass, total_cost
from bench.errors import FitError
from bench.fit.series import LM_HEAD, LatencySeries, draft_work, verify_work
from tests.fit.synthetic import CONTEXT, SIZES, decoder_lm, smollm2_draft, step_work


def test_work_is_that_of_the_components():
    shape, place = smollm2_draft(), 4
    parts = shape.cost(Pass(context_length=CONTEXT), 4096)
    step, head = step_work(), step_work(component=LM_HEAD)
    assert step.flops[place] == total_cost(parts).flops
    assert step.total_bytes[place] == total_cost(parts).total_bytes
    assert head.flops[place] == head.published_flops[place] == 2 * 576 * 4096
    assert head.weight_bytes[place] == 2 * 576 * 4096
    # fc, which only the first step of a round runs, against attention over the context
    assert step.published_flops[place] - step.flops[place] == 2 * 3 * 576 * 576 - 4 * 576 * (CONTEXT + 1)


def test_work_between_sizes_is_exact():
    some, all_of = np.array([512, 4096, 49152]), np.array([512, 1000, 4096, 30000, 49152])
    between = step_work(some).at(all_of)
    exact = step_work(all_of)
    # the full vocabulary alone needs no lookup of ids, which is 24 bytes
    assert between.total_bytes == pytest.approx(exact.total_bytes, abs=24)
    assert between.flops == pytest.approx(exact.flops)
    assert between.sizes.tolist() == all_of.tolist()


def test_a_batch_multiplies_flops_and_not_weights():
    one, four = (draft_work(smollm2_draft(), "draft_step", SIZES, CONTEXT, batch=b) for b in (1, 4))
    assert four.flops == pytest.approx(4 * one.flops)
    assert four.published_flops == pytest.approx(4 * one.published_flops)
    # but for the embedding's rows, one per sequence
    assert four.weight_bytes - one.weight_bytes == pytest.approx(3 * 576 * 2)


def test_verification_reads_its_weights_once():
    work = verify_work(decoder_lm(), np.array([1, 2, 4]), CONTEXT)
    assert work.published_flops == pytest.approx(work.published_flops[0] * np.array([1, 2, 4]))
    assert work.weight_bytes[2] - work.weight_bytes[0] == 3 * 576 * 2


@pytest.mark.parametrize(
    "sizes, samples, message",
    [
        ([1, 2], [[1.0]], "1 series of samples for 2 sizes"),
        ([2, 1], [[1.0], [1.0]], r"sizes must ascend, not \[2, 1\]"),
        ([1, 2], [[1.0], []], "size 2 needs samples"),
        ([1, 2], [[1.0], [0.0]], "size 2 needs samples, all of them above 0 ms"),
        ([1, 2], [[np.nan], [1.0]], "size 1 needs samples"),
    ],
)
def test_what_cannot_be_fitted_is_refused(sizes, samples, message):
    with pytest.raises(FitError, match=message):
        LatencySeries("draft_step", step_work(np.array(sizes)), [np.array(s) for s in samples])
