import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cost.hardware import HardwareSpec
from bench.fit.models import (
    CacheAware,
    DataSheetRoofline,
    Monotone,
    Proportional,
    Published,
    Roofline,
    all_models,
)
from tests.fit.synthetic import SIZES, bytes_law, device, limits, series, smollm2_draft, step_work


def test_every_model_has_its_own_name():
    names = [model.name for model in all_models(None)]
    assert names == [
        "flops_published",
        "flops_proportional",
        "flops_affine",
        "bytes_affine",
        "roofline",
        "roofline_datasheet",
        "cache_fitted",
        "monotone",
    ]
    known = HardwareSpec("x", "a test", None, {}, 1e12, 2**20, None, 132)
    names = [model.name for model in all_models(known.limits("bfloat16"))]
    assert names[-4:] == ["cache_aware", "cache_fitted", "waves", "monotone"]
    assert [model.name for model in all_models(None) if model.is_yardstick] == ["monotone"]


def test_the_published_model_saves_what_the_paper_says():
    work = step_work()
    times = Published().predict(np.array([[3e-7]]), work)[0]
    assert 1 - times / times[-1] == pytest.approx(smollm2_draft().latency_reduction(SIZES))


def test_without_fc_the_head_weighs_more():
    work = step_work()
    assert (work.published_flops > work.flops).all()
    published, engine = (m.predict(np.array([[1e-7]]), work)[0] for m in (Published(), Proportional()))
    assert engine[0] / engine[-1] < published[0] / published[-1]


def test_the_roofline_takes_the_slower_limit():
    work = step_work()
    by_compute = Roofline().predict(np.array([[0.1, 1e-6, 0.0]]), work)[0]
    by_memory = Roofline().predict(np.array([[0.1, 0.0, 1e-6]]), work)[0]
    both = Roofline().predict(np.array([[0.1, 1e-6, 1e-6]]), work)[0]
    assert both == pytest.approx(np.maximum(by_compute, by_memory))
    assert by_memory == pytest.approx(0.1 + 1e-6 * work.total_bytes)


def test_one_limit_is_not_split_in_two():
    # At batch 1 in bfloat16 every weight is one byte per FLOP, whatever k is.
    theta = Roofline().solve(step_work(), series(bytes_law()).medians_ms[None])
    assert theta[0, 1] == 0 and theta[0, 2] > 0
    assert Roofline().num_parameters(theta) == 2


def test_the_data_sheet_leaves_only_launches_to_fit():
    spec, work = device(memory=1e11, peak=1e12), step_work()
    model = DataSheetRoofline(spec.limits("bfloat16"))
    latencies = 0.4 + 1e3 * np.maximum(work.flops / 1e12, work.total_bytes / 1e11)
    theta = model.solve(work, latencies[None])
    assert theta == pytest.approx(np.array([[0.4]]))
    assert model.predict(theta, work)[0] == pytest.approx(latencies)
    assert "no data sheet" in DataSheetRoofline().why_not(work)
    (without_peak,) = [m for m in all_models(spec.limits("float64")) if m.name == "roofline_datasheet"]
    assert "no data sheet with a peak for this dtype" in without_peak.why_not(work)


def test_the_cache_model_is_affine_below_and_above():
    work = step_work()
    cache = float(work.weight_bytes[4])
    times = CacheAware(limits(cache=int(cache))).predict(np.array([[0.1, 1e-8, 3e-8, cache]]), work)[0]
    slopes = np.diff(times) / np.diff(work.total_bytes)
    assert slopes[:4] == pytest.approx(1e-8, rel=1e-9)
    assert slopes[4:] == pytest.approx(4e-8, rel=1e-2)


@given(st.lists(st.floats(0.01, 100), min_size=10, max_size=10))
def test_the_yardstick_never_falls(latencies):
    work, model = step_work(), Monotone()
    theta = model.solve(work, np.array([latencies]))
    dense = model.predict(theta, work.at(np.unique(np.geomspace(512, 49152, 60).astype(int))))[0]
    assert (np.diff(dense) >= -1e-9 * dense[1:]).all()


def test_the_yardstick_passes_through_rising_points_and_goes_on():
    work, model = step_work(), Monotone()
    power = 1e-4 * SIZES**0.9
    theta = model.solve(work.take(np.arange(1, 9)), power[None, 1:9])
    assert model.predict(theta, work)[0] == pytest.approx(power, rel=1e-9)


def test_the_yardstick_pools_what_falls():
    work, model = step_work(SIZES[:3]), Monotone()
    theta = model.solve(work, np.array([[1.0, 4.0, 1.0]]))
    assert model.predict(theta, work)[0] == pytest.approx([1.0, 2.0, 2.0])
    assert model.num_parameters(theta) == 2
