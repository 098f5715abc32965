import numpy as np
import pytest

from bench.cost.hardware import DeviceLimits
from bench.fit.fitting import FittedModel, fit, held_out_errors, resample_medians, score
from bench.fit.models import AffineBytes, Monotone, Proportional, all_models
from bench.fit.series import LatencySeries, Work
from tests.fit.synthetic import SIZES, bytes_law, series, step_work


def fitted(model, data) -> FittedModel:
    result = fit(model, data, resample_medians(data, 20, 0), 0)
    assert isinstance(result, FittedModel)
    return result


def proportional_case(latencies) -> LatencySeries:
    """FLOPs of 1, 2, 3 and 4 GFLOP."""
    sizes = np.array([1, 2, 3, 4])
    flops = 1e9 * sizes.astype(float)
    work = Work(sizes, flops, flops, flops, flops)
    return LatencySeries("draft_step", work, [np.array([value]) for value in latencies])


def test_scores_by_hand():
    data = proportional_case([1.0, 2.0, 3.0, 5.0])
    one_per_gflop = FittedModel(
        Proportional(), data.work, data.medians_ms, np.array([1e-9]), np.array([[1e-9]])
    )
    found = score(one_per_gflop, data)
    # errors 0, 0, 0 and 1/5; squares of residuals 1 about a mean of 2.75
    assert found.mape == pytest.approx(0.05)
    assert found.worst_error == pytest.approx(0.2)
    assert found.r2 == pytest.approx(1 - 1 / 8.75)
    # n ln(RSS/n) + 2p + 2p(p+1)/(n-p-1) with p = slope and variance
    assert found.aicc == pytest.approx(4 * np.log(0.04 / 4) + 4 + 12)


def test_leaving_a_size_out_by_hand():
    # Without the last, the others lie on a line through zero, which gives 4 for 5.
    data = proportional_case([1.0, 2.0, 3.0, 5.0])
    errors = held_out_errors(Proportional(), data)
    assert errors[3] == pytest.approx(-0.2)
    # Without one of the others, most of the rest still lies on that line.
    assert errors[:3] == pytest.approx(0, abs=0.02)
    found = score(
        fitted(Proportional(), proportional_case([1.0, 2.0, 3.0, 5.0])), proportional_case([1, 2, 3, 5])
    )
    assert found.loo_mape == pytest.approx(np.abs(errors).mean())
    assert found.loo_worst_error == pytest.approx(0.2)


def test_the_right_model_predicts_sizes_it_has_not_seen():
    data = series(bytes_law(), 0.02)
    right, wrong = score(fitted(AffineBytes(), data), data), score(fitted(Proportional(), data), data)
    assert right.loo_mape < 0.02 < wrong.loo_mape
    assert right.aicc < wrong.aicc
    assert right.r2 > 0.999


def test_too_few_sizes_are_said_not_scored():
    data = series(bytes_law(), work=step_work(SIZES[:3]))
    found = score(fitted(AffineBytes(), data), data)
    assert (found.loo_mape, found.loo_worst_error, found.aicc) == (None, None, None)
    assert found.mape < 1e-6


def test_equal_latencies_have_no_variance_to_explain():
    data = proportional_case([2.0, 2.0, 2.0, 2.0])
    assert score(fitted(Proportional(), data), data).r2 is None


def test_the_yardstick_has_no_criterion_of_parsimony():
    data = series(bytes_law(), 0.02)
    found = score(fitted(Monotone(), data), data)
    assert found.aicc is None
    assert found.mape < 1e-9 < found.loo_mape < 0.3


DEVICE = DeviceLimits("X1", "bfloat16", 1e12, 1e11, 20 * 2**20, 16)


@pytest.mark.parametrize("model", all_models(DEVICE), ids=lambda model: model.name)
@pytest.mark.parametrize("scatter", [0.0, 0.05])
def test_leaving_each_out_at_once_is_a_fit_to_all_others(model, scatter):
    data = series(bytes_law(), shape_noise=scatter)
    places = np.arange(len(data.work))
    assert model.why_not(data.work) is None
    for place, predicted in zip(places, model.without_each(data.work, data.medians_ms), strict=True):
        rest = data.work.take(places != place)
        theta = model.solve(rest, data.medians_ms[None, places != place])
        one = model.predict(theta, data.work.take(places == place))[0, 0]
        assert predicted == pytest.approx(one, rel=1e-5)
