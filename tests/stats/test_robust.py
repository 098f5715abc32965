"""The solver against scipy's, and against fits whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from bench.stats.robust import SOFT_LIMIT, fit_nonnegative, robust_loss

SIZES = np.array([512, 1024, 2048, 4096, 8192, 16384, 32768, 49152], dtype=float)
DESIGN = np.stack([np.ones(8), SIZES], axis=1)


def scipy_fit(design, latencies):
    scale = design.max(axis=0)

    def errors(x):
        return (design / scale) @ x / latencies - 1

    start = np.full(design.shape[1], latencies.mean() / design.shape[1])
    found = least_squares(
        errors,
        start,
        bounds=(0, np.inf),
        loss="soft_l1",
        f_scale=SOFT_LIMIT,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    return found.x / scale


def loss(design, latencies, found):
    return robust_loss(design @ found / latencies - 1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.sampled_from([0.0, 0.005, 0.03, 0.3]),
    columns=st.integers(1, 3),
)
def test_the_objective_is_that_of_scipy_and_its_minimum_no_worse(seed, noise, columns):
    rng = np.random.default_rng(seed)
    design = np.stack([np.ones(8), SIZES, np.maximum(SIZES - 6000, 0)], axis=1)[:, 3 - columns :][:, ::-1]
    design = design + (design.max(axis=0) * 1e-3)
    true = rng.uniform(0, 1, columns) / design.max(axis=0)
    latencies = (design @ true + 0.01) * np.exp(noise * rng.standard_normal(8))
    ours, theirs = fit_nonnegative(design, latencies[None])[0], scipy_fit(design, latencies)
    assert (ours >= 0).all()
    # Latencies that no line fits, 30% off, converge slowly in the flat bottom of the objective.
    slack = 1e-3 if noise == 0.3 else 1e-6
    assert loss(design, latencies, ours) <= loss(design, latencies, theirs) * (1 + slack) + 1e-12


def test_it_finds_what_scipy_finds():
    latencies = (0.2 + 1e-4 * SIZES) * np.exp(0.01 * np.random.default_rng(1).standard_normal(8))
    assert fit_nonnegative(DESIGN, latencies[None])[0] == pytest.approx(
        scipy_fit(DESIGN, latencies), rel=1e-4
    )


def test_exact_data_give_exact_coefficients():
    found = fit_nonnegative(DESIGN, np.stack([0.2 + 1e-4 * SIZES, 3.0 + 0 * SIZES]))
    assert found[0] == pytest.approx([0.2, 1e-4])
    assert found[1] == pytest.approx([3.0, 0.0], abs=1e-12)


def test_a_negative_start_is_held_at_zero():
    found = fit_nonnegative(DESIGN, (1e-4 * SIZES**1.3)[None])[0]
    assert found[0] == 0 and found[1] > 0


def test_one_odd_size_hardly_bends_the_curve():
    latencies = 0.2 + 1e-4 * SIZES
    latencies[4] *= 1.5
    squared = np.linalg.lstsq(DESIGN / latencies[:, None], np.ones(8), rcond=None)[0]
    found = fit_nonnegative(DESIGN, latencies[None])[0]
    assert found == pytest.approx([0.2, 1e-4], rel=0.01)
    assert abs(squared[1] / 1e-4 - 1) > 0.05


def test_a_known_part_is_taken_off_first():
    fixed = 1e-4 * SIZES
    assert fit_nonnegative(DESIGN[:, :1], (0.2 + fixed)[None], fixed)[0] == pytest.approx([0.2])
    assert fit_nonnegative(DESIGN[:, :1], (0.5 * fixed)[None], fixed)[0] == 0


def test_the_loss_is_squared_near_zero_and_linear_far_out():
    assert robust_loss(np.array([1e-5])) == pytest.approx(1e-10, rel=1e-4)
    far = robust_loss(np.array([[1.0], [2.0]]))
    assert far[1] - far[0] == pytest.approx(2 * SOFT_LIMIT, rel=1e-3)
