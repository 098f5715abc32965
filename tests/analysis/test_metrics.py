import math

import pandas as pd
import pytest

from bench.analysis.metrics import (
    METRICS,
    format_estimate,
    format_interval,
    format_value,
    impossible_values,
    interval_columns,
    known_intervals,
    significant,
)
from bench.stats.estimates import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.09812, "0.0981"),
        (0.5, "0.500"),
        (2.132, "2.13"),
        (28.06, "28.1"),
        (342.4, "342"),
        (12345.6, "12,346"),
    ],
)
def test_latencies_of_all_sizes_have_three_digits(value, text):
    assert significant(value) == text


def test_a_value_its_interval_and_its_unit():
    assert format_value("speedup_vs_full", 1.2166) == "1.22"
    assert format_interval("speedup_vs_full", 1.2166, 1.1, None) == "1.22 [1.10, ?]"
    assert format_estimate("speedup_vs_full", Estimate(1.2166, 1.1, 1.3)) == "1.22x [1.10, 1.30]"
    assert format_value("tokens_per_s", 1234.56, with_unit=True) == "1,234.6 tokens/s"
    assert format_value("in_confidence_set", True) == "yes"
    assert format_value("role", "optimum+lossless") == "optimum, same passes"


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_what_is_not_known_is_no_text(missing):
    assert format_value("tokens_per_s", missing) == ""
    assert format_interval("tokens_per_s", missing, 1, 2) == ""


@pytest.mark.parametrize(
    "ends", [(0.0, math.inf), (-math.inf, math.inf), (None, None), (float("nan"), pd.NA)]
)
def test_an_interval_that_is_not_known_is_not_shown(ends):
    assert format_interval("speedup_vs_full", 1.1, *ends, with_unit=True) == "1.10x (no interval)"


def test_an_interval_without_an_end_is_missing_in_files():
    table = pd.DataFrame({
        "ratio": [1.1, 1.2], "ratio_ci_low": [0.0, 1.1], "ratio_ci_high": [math.inf, 1.3],
        "ci_low_ms": [1, 2], "other": [math.inf, 0],
    })  # fmt: skip
    found = known_intervals(table)
    assert found.to_csv(index=False).splitlines() == [
        "ratio,ratio_ci_low,ratio_ci_high,ci_low_ms,other",
        "1.1,,,1,inf",
        "1.2,1.1,1.3,2,0.0",
    ]
    assert table["ratio_ci_high"].tolist() == [math.inf, 1.3]


def test_intervals_stand_in_columns_of_their_own():
    assert interval_columns("speedup_vs_full") == ("speedup_vs_full_ci_low", "speedup_vs_full_ci_high")
    assert interval_columns("predicted_tokens_per_s") == ("predicted_ci_low", "predicted_ci_high")


def test_a_value_that_cannot_be_is_named():
    table = pd.DataFrame({"acceptance_rate": [0.5, 1.5, None], "tokens_per_s": [1.0, float("inf"), 2.0]})
    assert impossible_values(table) == ["acceptance_rate is 1.5 in row 1"]
    assert impossible_values(table.assign(acceptance_rate=1 + 1e-12)) == []
    assert impossible_values(pd.DataFrame({"tokens_per_s": [-1.0]})) == ["tokens_per_s is -1 in row 0"]


def test_every_metric_has_a_heading_and_a_range():
    for name, metric in METRICS.items():
        assert metric.heading and metric.least < metric.most, name
