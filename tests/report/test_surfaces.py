from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.analysis.run import read_run
from bench.analysis.surfaces import (
    SURFACE_COLUMNS,
    Surfaces,
    acceptance_by_position,
    baselines,
    cross_frame,
    surface_frame,
)
from bench.variant import Variant
from tests.report.synthetic import FULL, write_run

EXAMPLE = Path(__file__).parents[2] / "results" / "example"


@pytest.fixture
def surfaces(tmp_path):
    return Surfaces(read_run(write_run(tmp_path / "run")))


def test_every_size_has_a_row_by_hand(surfaces):
    frame = surface_frame(surfaces).set_index("vocab_size")
    assert [*SURFACE_COLUMNS[:3], *SURFACE_COLUMNS[4:]] == list(frame.columns)
    assert list(frame.index) == list(range(1, FULL + 1))
    # Below ten tokens nothing is accepted, so every answer takes eight rounds; the head costs as at 10.
    assert frame.loc[9, "mean_acceptance_length"] == 1
    assert frame.loc[9, "predicted_tokens_per_s"] == pytest.approx(
        8 / (4 + 8 * (3 + 4 + 24) + 7 * 3) * 1e3, rel=1e-6
    )
    assert frame.loc[10, "predicted_tokens_per_s"] == pytest.approx(8 / 69 * 1e3)
    assert frame.loc[55, "predicted_tokens_per_s"] == pytest.approx(8 / 84 * 1e3)
    assert frame.loc[FULL, "predicted_tokens_per_s"] == pytest.approx(8 / 99 * 1e3)
    assert frame.loc[10, "tokens_per_s"] == pytest.approx(8 / 69 * 1e3)
    assert np.isnan(frame.loc[55, "tokens_per_s"])
    # A head step takes 5 / 90 ms longer with every token more: at 12 an answer is still less than 1% slower.
    assert list(frame.index[frame["in_confidence_set"]]) == [10, 11, 12]
    assert (frame["predicted_ci_low"] <= frame["predicted_tokens_per_s"] + 1e-4).all()
    assert (frame["acceptance_rate"].loc[10:] == 1).all()


def test_advice_by_hand(surfaces):
    advice = surfaces.advice("code")
    assert advice.best == Variant(10, 3)
    assert advice.paper == Variant(20, 3)
    assert advice.lossless == 10
    assert advice.confident_sizes == (10, 10)
    # At 20 tokens a head step takes 1/9 of the way from 0.5 to 5.5 ms longer, six times an answer.
    assert advice.paper_regret == pytest.approx(1 - 69 / (69 + 6 * 5 / 9))
    even = advice.break_even
    assert even.acceptance_ratio == 1
    assert even.head_ratio == pytest.approx(1 / 6)
    assert even.round_ratio == pytest.approx(34 / 49)
    assert even.gain == pytest.approx(49 / 34)


def test_across_sources_by_hand(surfaces):
    cross = cross_frame(surfaces).set_index("source")
    assert list(cross["vocab_size"]) == [10, 20]
    assert cross.loc["code", "predicted_speedup_vs_full_vocab"] == pytest.approx(99 / 69)
    assert cross.loc["pooled", "predicted_speedup_vs_full_vocab"] == pytest.approx(99 / (69 + 6 * 5 / 9))
    assert list(cross["mean_acceptance_length"]) == [4, 4]


def test_acceptance_by_position(surfaces):
    assert list(acceptance_by_position(surfaces, "code", Variant(10, 2))) == [1, 1]
    assert list(acceptance_by_position(surfaces, "code", Variant(9, 3))) == [0, 0, 0]


def test_the_confidence_set_of_the_table_is_that_of_the_report():
    surfaces = Surfaces(read_run(EXAMPLE))
    frame = surface_frame(surfaces)
    for domain in surfaces.run.decodes:
        surface = surfaces.of(domain)
        rows = frame[(frame["domain"] == domain) & frame["vocab_size"].isin(surface.sizes)]
        table = rows.pivot(index="draft_length", columns="vocab_size", values="in_confidence_set")
        smallest = surfaces.run.rankings[domain].num_must_keep
        expected = surface.is_equal[:, surface.sizes >= smallest]
        assert 1 < expected.sum() < expected.size
        assert np.array_equal(table.to_numpy(dtype=bool), expected)


def test_trimming_is_judged_by_the_full_vocabulary_of_the_plan(surfaces):
    """Whatever else was decoded, and however fast: the fastest of several is so by chance as well."""
    run = surfaces.run
    by_key = run.decodes["code"]
    halved = {
        p: replace(r, decode_ms=r.decode_ms / 2, draft_length=1) for p, r in by_key[Variant(FULL, 3)].items()
    }
    assert baselines(run, "code") == (Variant(FULL, 0), Variant(FULL, 3), Variant(10, 3))
    faster = replace(run, decodes={"code": {**by_key, Variant(FULL, 1): halved}})
    assert baselines(faster, "code") == baselines(run, "code")
