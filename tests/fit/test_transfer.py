import numpy as np
import pytest

from bench.cost.hardware import HardwareSpec
from bench.errors import FitError
from bench.fit.fitting import FittedModel, fit, resample_medians, transfer, transfer_error
from bench.fit.models import (
    AFFINE_BYTES,
    AFFINE_FLOPS,
    PROPORTIONAL,
    CacheAware,
    DataSheetRoofline,
    Monotone,
    Roofline,
)
from bench.fit.series import verify_work
from tests.fit.synthetic import bytes_law, decoder_lm, device, flops_law, series

SLOW, FAST = device(memory=1e11, peak=1e12), device(memory=4e11, peak=8e12)


def fitted(model, data) -> FittedModel:
    result = fit(model, data, resample_medians(data, 20, 0), 0)
    assert isinstance(result, FittedModel)
    return result


def test_bytes_go_with_bandwidth_and_launches_stay():
    slow = fitted(AFFINE_BYTES, series(bytes_law(0.3, 2e10)))
    fast = transfer(slow, SLOW, FAST, "bfloat16")
    assert fast.coefficient("t0_ms") == pytest.approx(0.3)
    assert fast.coefficient("bytes_per_s") == pytest.approx(8e10)
    error = transfer_error(fast, series(bytes_law(0.3, 8e10)))
    assert error.worst_error < 1e-6


def test_the_error_is_that_of_what_was_not_assumed():
    fast = transfer(fitted(AFFINE_BYTES, series(bytes_law(0.0, 2e10))), SLOW, FAST, "bfloat16")
    # the other device reaches only half of what its data sheet lets expect
    error = transfer_error(fast, series(bytes_law(0.0, 4e10)))
    assert error.errors == pytest.approx(-0.5)
    assert (error.mape, error.worst_error) == pytest.approx((0.5, 0.5))


def test_flops_go_with_the_peak():
    affine = transfer(fitted(AFFINE_FLOPS, series(flops_law(0.3, 2e10))), SLOW, FAST, "bfloat16")
    assert affine.coefficient("flops_per_s") == pytest.approx(1.6e11)
    proportional = transfer(fitted(PROPORTIONAL, series(flops_law(0.0, 2e10))), SLOW, FAST, "bfloat16")
    assert proportional.coefficient("flops_per_s") == pytest.approx(1.6e11)
    assert proportional.predict(proportional.work) == pytest.approx(
        1e3 * proportional.work.flops / 1.6e11, rel=1e-6
    )


def test_both_limits_of_a_roofline_move():
    work = verify_work(decoder_lm(), np.array([1, 2, 4, 8, 16, 24, 32, 48]), 200)
    data = series(lambda w: 2 + 1e3 * np.maximum(w.flops / 2e11, w.total_bytes / 2e10), work=work)
    fast = transfer(fitted(Roofline(), data), SLOW, FAST, "bfloat16")
    assert fast.coefficient("flops_per_s") == pytest.approx(1.6e12, rel=1e-3)
    assert fast.coefficient("bytes_per_s") == pytest.approx(8e10, rel=1e-2)


def test_a_limit_that_never_bound_needs_no_peak():
    no_peak = HardwareSpec("t4", "sheet", None, {}, 3e11, None, None)
    moved = transfer(fitted(Roofline(), series(bytes_law())), SLOW, no_peak, "bfloat16")
    assert moved.coefficient("bytes_per_s") == pytest.approx(6e10)
    with pytest.raises(FitError, match="t4 has no peak for bfloat16; transfer in a dtype that both"):
        transfer(fitted(AFFINE_FLOPS, series(bytes_law())), SLOW, no_peak, "bfloat16")


def test_a_data_sheet_is_replaced_by_the_other():
    model = DataSheetRoofline(1e12, 1e11)
    data = series(lambda w: 0.4 + 1e3 * np.maximum(w.flops / 1e12, w.total_bytes / 1e11))
    fast = transfer(fitted(model, data), SLOW, FAST, "bfloat16")
    expected = 0.4 + 1e3 * np.maximum(data.work.flops / 8e12, data.work.total_bytes / 4e11)
    assert fast.predict(data.work) == pytest.approx(expected)


def test_a_cache_is_replaced_by_the_other():
    small, large = device(memory=1e11, cache=16 * 2**20), device(memory=4e11, cache=32 * 2**20)

    def law(cache, speed):
        def times(work):
            beyond = np.maximum(work.weight_bytes - cache, 0)
            return 0.3 + 1e3 * ((work.total_bytes - beyond) / 8e10 + beyond / 2e10) / speed

        return times

    data = series(law(16 * 2**20, 1))
    moved = transfer(fitted(CacheAware(16 * 2**20), data), small, large, "bfloat16")
    assert moved.coefficient("cache_bytes") == 32 * 2**20
    assert moved.coefficient("bytes_per_s") == pytest.approx(8e10, rel=1e-4)
    assert moved.predict(data.work) == pytest.approx(law(32 * 2**20, 4)(data.work), rel=1e-4)
    with pytest.raises(FitError, match="cache of X1 or of X1 is unknown"):
        transfer(fitted(CacheAware(16 * 2**20), data), small, FAST, "bfloat16")


def test_the_yardstick_knows_no_hardware():
    with pytest.raises(FitError, match="says nothing of hardware"):
        transfer(fitted(Monotone(), series(bytes_law())), SLOW, FAST, "bfloat16")


def test_to_itself_nothing_changes():
    data = series(bytes_law(), 0.02)
    before = fitted(AFFINE_BYTES, data)
    after = transfer(before, SLOW, SLOW, "bfloat16")
    assert after.theta == pytest.approx(before.theta)
    assert after.replicates == pytest.approx(before.replicates)
