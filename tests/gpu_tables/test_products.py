import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gpu_tables.products import Basis, Products
from bench.gpu_tables.surface import ROW_SD, Surface
from bench.gpu_tables.tidy import TableKey
from tests.gpu_tables.synthetic import (
    BYTES_PER_S,
    MEMORY_BYTES_PER_S,
    SIZES,
    T0_MS,
    TOKENS,
    WIDTHS,
    product_ms,
    products,
)

KEY = TableKey("h100_sxm", "vllm", "0.24.0", "bfloat16")


def rows_of(noise=0.0):
    names = {"latency": "latency_ms", "gemm_dtype": "dtype", "kernel_source": "kernel"}
    return products(["bfloat16"], noise).rename(columns=names)


def look_up(noise=0.0, memory=MEMORY_BYTES_PER_S, change=None, scales=None):
    rows = rows_of(noise)
    return Products(KEY, rows if change is None else change(rows), memory, scales)


SMOOTH = look_up()
NOISY = look_up(noise=0.03)
ROWS = {(row.m, row.n, row.k): row.latency_ms for row in rows_of(0.03).itertuples()}


@given(st.sampled_from(TOKENS), st.sampled_from(SIZES), st.sampled_from(WIDTHS))
def test_tabulated_products_are_exact(m, n, k):
    found = NOISY.at(m, n, k)
    assert found.ms == ROWS[m, n, k] and found.basis is Basis.EXACT


@given(st.integers(256, 65536), st.integers(256, 12288), st.sampled_from([1, 3, 16, 100]))
def test_between_them_a_smooth_table_is_met(n, k, m):
    assert SMOOTH.at(m, n, k).ms == pytest.approx(product_ms(m, n, k), rel=2e-3)


@given(st.sampled_from(WIDTHS), st.lists(st.integers(256, 65536), min_size=2, max_size=8, unique=True))
def test_the_look_up_rises_where_the_table_does(k, sizes):
    assert np.diff([SMOOTH.at(1, n, k).ms for n in sorted(sizes)]).min() >= 0


@given(st.sampled_from(WIDTHS), st.integers(257, 65535).filter(lambda n: n not in SIZES))
def test_never_outside_of_two_neighbours_where_they_rise(k, n):
    low, high = (
        ROWS[1, size, k] for size in (max(s for s in SIZES if s < n), min(s for s in SIZES if s > n))
    )
    if low <= high:
        assert low <= NOISY.at(1, n, k).ms <= high


def test_beyond_the_table_is_said():
    assert SMOOTH.at(1, 128_256, 4096).basis is Basis.EXTRAPOLATED
    assert SMOOTH.at(1, 4096, 32_768).basis is Basis.EXTRAPOLATED
    assert SMOOTH.at(512, 4096, 4096).basis is Basis.EXTRAPOLATED
    assert SMOOTH.at(3, 4096, 4096).basis is Basis.INTERPOLATED
    assert SMOOTH.at(1, 128_256, 4096).ms == pytest.approx(product_ms(1, 128_256, 4096), rel=0.01)
    assert SMOOTH.basis(1, 4096, 4096) is Basis.EXACT and SMOOTH.basis(1, 5000, 4096) is Basis.INTERPOLATED


def test_the_base_is_recovered():
    t0_ms, rate = NOISY.slice(1).base
    assert t0_ms == pytest.approx(T0_MS, rel=0.05) and rate == pytest.approx(BYTES_PER_S, rel=0.02)


def test_errors_on_left_out_rows_are_those_of_surfaces_without_them():
    table = NOISY.slice(16)
    found = table.left_out
    places = np.stack([np.log(found.n), np.log(found.k)], axis=1)
    t0_ms, rate = table.base
    moved = 2.0 * found.n * found.k + 2.0 * 16 * (found.n + found.k)
    logs = np.log(table.ms / (t0_ms + 1e3 * moved / rate))
    # The mean is that of all rows in `left_out`: a row moves it by little.
    for place in (0, 7, 40):
        rest = np.arange(len(logs)) != place
        expected = Surface(places[rest], logs[rest]).at(places[place][None])[0] - logs[place]
        assert np.log1p(found.row_errors[place]) == pytest.approx(expected, abs=2e-3)
    size = found.n == 4096
    without = Surface(places[~size], logs[~size]).at(places[size]) - logs[size]
    assert np.log1p(found.size_errors[size]) == pytest.approx(without, abs=4e-3)
    # Rows scatter by 2.4% on average, and so do the few neighbours that stand for them.
    assert 0.024 < np.abs(found.row_errors).mean() < 0.04


def test_a_planted_outlier_is_flagged_and_still_exact():
    def plant(rows):
        there = (rows["m"] == 1) & (rows["n"] == 4096) & (rows["k"] == 4096)
        return rows.assign(latency_ms=rows["latency_ms"].where(~there, rows["latency_ms"] * 1.4))

    table = look_up(noise=0.02, change=plant)
    found = table.at(1, 4096, 4096)
    assert found.basis is Basis.EXACT and found.ms == pytest.approx(1.4 * product_ms(1, 4096, 4096), rel=0.1)
    assert "slower than its neighbours say" in table.doubt(1, 4096, 4096)
    assert table.slice(1).contradicts.sum() == 1
    assert table.curve(1, np.array([4096]), 4096)[0] == pytest.approx(product_ms(1, 4096, 4096), rel=0.08)
    assert look_up(noise=0.02).slice(1).contradicts.sum() == 0


def test_rows_faster_than_memory_are_warm_and_do_not_bend_the_surface():
    def warm(rows):
        there = (rows["m"] == 1) & (rows["n"] == 8192) & (rows["k"] == 4096)
        return rows.assign(latency_ms=rows["latency_ms"].where(~there, 0.012))

    table = look_up(change=warm)
    assert "in the cache" in table.doubt(1, 8192, 4096)
    assert table.slice(1).is_warm.sum() == 1
    assert table.curve(1, np.array([8192]), 4096)[0] == pytest.approx(product_ms(1, 8192, 4096), rel=2e-3)
    assert look_up(memory=None, change=warm).slice(1).is_warm.sum() == 0


def test_fixed_scales_are_taken_out_of_products():
    scales = rows_of()[["m", "k"]].drop_duplicates().assign(latency_ms=0.003)
    assert look_up(scales=scales).at(1, 4096, 4096).ms == pytest.approx(product_ms(1, 4096, 4096) - 0.003)


def test_a_surface_goes_through_what_it_was_given():
    places = np.stack([np.linspace(0, 4, 30), np.zeros(30)], axis=1)
    values = 0.1 * np.sin(places[:, 0])
    assert np.abs(Surface(places, values).at(places) - values).max() < ROW_SD / 2
