"""A fitted model on a device that was never measured: its parameters go with the limits of the hardware."""

import numpy as np
import pytest

from bench.cost.hardware import DeviceLimits
from bench.errors import FitError
from bench.fit.fitting import FittedModel, fit, resample_medians
from bench.fit.models import (
    AffineBytes,
    AffineFlops,
    CacheAware,
    DataSheetRoofline,
    Monotone,
    Proportional,
    Roofline,
    all_models,
)
from bench.fit.series import verify_work
from tests.fit.synthetic import bytes_law, decoder_lm, flops_law, limits, series

SLOW, FAST = limits(memory=1e11, peak=1e12), limits(memory=4e11, peak=8e12)
NO_PEAK = DeviceLimits("t4", "bfloat16", None, 3e11, None)


def fitted(model, data) -> FittedModel:
    result = fit(model, data, resample_medians(data, 20, 0), 0)
    assert isinstance(result, FittedModel)
    return result


def test_bytes_go_with_bandwidth_and_launches_stay():
    fast = fitted(AffineBytes(SLOW), series(bytes_law(0.3, 2e10))).moved_to(FAST)
    assert fast.coefficient("t0_ms") == pytest.approx(0.3)
    assert fast.coefficient("bytes_per_s") == pytest.approx(8e10)
    assert fast.error_on(series(bytes_law(0.3, 8e10))).worst_error < 1e-6


def test_the_error_is_that_of_what_was_not_assumed():
    fast = fitted(AffineBytes(SLOW), series(bytes_law(0.0, 2e10))).moved_to(FAST)
    # the other device reaches only half of what its data sheet lets expect
    error = fast.error_on(series(bytes_law(0.0, 4e10)))
    assert error.errors == pytest.approx(-0.5)
    assert (error.mape, error.worst_error) == pytest.approx((0.5, 0.5))


def test_flops_go_with_the_peak():
    affine = fitted(AffineFlops(SLOW), series(flops_law(0.3, 2e10))).moved_to(FAST)
    assert affine.coefficient("flops_per_s") == pytest.approx(1.6e11)
    proportional = fitted(Proportional(SLOW), series(flops_law(0.0, 2e10))).moved_to(FAST)
    assert proportional.coefficient("flops_per_s") == pytest.approx(1.6e11)
    assert proportional.predict(proportional.work) == pytest.approx(
        1e3 * proportional.work.flops / 1.6e11, rel=1e-6
    )


def test_both_limits_of_a_roofline_move():
    work = verify_work(decoder_lm(), np.array([1, 2, 4, 8, 16, 24, 32, 48]), 200)
    data = series(lambda w: 2 + 1e3 * np.maximum(w.flops / 2e11, w.total_bytes / 2e10), work=work)
    fast = fitted(Roofline(SLOW), data).moved_to(FAST)
    assert fast.coefficient("flops_per_s") == pytest.approx(1.6e12, rel=1e-3)
    assert fast.coefficient("bytes_per_s") == pytest.approx(8e10, rel=1e-2)


def test_a_limit_that_never_bound_needs_no_peak():
    moved = fitted(Roofline(SLOW), series(bytes_law())).moved_to(NO_PEAK)
    assert moved.coefficient("bytes_per_s") == pytest.approx(6e10)
    with pytest.raises(FitError, match="t4 has no peak for bfloat16; transfer in a dtype that both"):
        fitted(AffineFlops(SLOW), series(bytes_law())).moved_to(NO_PEAK)


def test_a_data_sheet_is_replaced_by_the_other():
    data = series(lambda w: 0.4 + 1e3 * np.maximum(w.flops / 1e12, w.total_bytes / 1e11))
    here = fitted(DataSheetRoofline(SLOW), data)
    expected = 0.4 + 1e3 * np.maximum(data.work.flops / 8e12, data.work.total_bytes / 4e11)
    assert here.moved_to(FAST).predict(data.work) == pytest.approx(expected)
    with pytest.raises(FitError, match="t4 has no peak for bfloat16"):
        here.moved_to(NO_PEAK)


def test_a_cache_is_replaced_by_the_other():
    small, large = limits(memory=1e11, cache=16 * 2**20), limits(memory=4e11, cache=32 * 2**20)

    def law(cache, speed):
        def times(work):
            beyond = np.maximum(work.weight_bytes - cache, 0)
            return 0.3 + 1e3 * ((work.total_bytes - beyond) / 8e10 + beyond / 2e10) / speed

        return times

    data = series(law(16 * 2**20, 1))
    here = fitted(CacheAware(small), data)
    moved = here.moved_to(large)
    assert moved.coefficient("cache_bytes") == 32 * 2**20
    assert moved.coefficient("bytes_per_s") == pytest.approx(8e10, rel=1e-4)
    assert moved.predict(data.work) == pytest.approx(law(32 * 2**20, 4)(data.work), rel=1e-4)
    with pytest.raises(FitError, match="cache of X1 or of X1 is unknown"):
        here.moved_to(FAST)


def test_the_yardstick_knows_no_hardware():
    with pytest.raises(FitError, match="says nothing of hardware"):
        fitted(Monotone(SLOW), series(bytes_law())).moved_to(FAST)


def test_a_model_of_an_unknown_device_stays_where_it_is():
    with pytest.raises(FitError, match="nothing is known of the device that it was fitted on"):
        fitted(AffineBytes(), series(bytes_law())).moved_to(FAST)


CACHED = limits(cache=16 * 2**20)


@pytest.mark.parametrize("model", all_models(CACHED), ids=lambda model: model.name)
def test_on_its_own_device_a_model_stays_as_it_is(model):
    data = series(bytes_law(), 0.02)
    before = fitted(model, data)
    if model.is_yardstick:
        return
    after = before.moved_to(CACHED)
    assert after.theta == pytest.approx(before.theta)
    assert after.replicates == pytest.approx(before.replicates)
    assert after.model == before.model
