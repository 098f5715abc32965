import pytest

from bench.measure.session import was_disturbed


@pytest.mark.parametrize(
    ("laps", "expected"),
    [
        ({"verify": [40.0, 41.0, 42.0]}, False),
        # Beyond five medians: 900 - 5 * 40 = 700 of about 1000 ms.
        ({"verify": [40.0, 40.0, 900.0]}, True),
        # 210 - 200 = 10 of 490 ms.
        ({"verify": [40.0, 40.0, 210.0, 40.0, 40.0, 40.0, 40.0, 40.0]}, False),
        # A short step may be late without outweighing anything.
        ({"verify": [40.0, 40.0, 40.0], "select": [0.1, 0.1, 5.0]}, False),
        ({"draft_prefill": [900.0], "verify": [40.0, 40.0, 40.0]}, False),
        ({}, False),
    ],
)
def test_single_laps_that_outweigh_the_rest(laps, expected):
    assert was_disturbed(laps, {}) is expected


def test_what_is_slow_throughout_is_known_by_what_is_usual():
    assert not was_disturbed({"verify": [900.0, 900.0, 900.0]}, {})
    assert was_disturbed({"verify": [900.0, 900.0, 900.0]}, {"verify": 40.0})
    assert not was_disturbed({"verify": [90.0, 90.0]}, {"verify": 40.0})
