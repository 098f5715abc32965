"""Coverage curves that users bring."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.analysis.coverage_table import read_coverage
from bench.errors import ConfigError


def test_a_table_is_read_in_any_order_and_joined_by_straight_lines(tmp_path):
    (tmp_path / "curve.csv").write_text("vocab_size,coverage\n300,1.0\n100,0.5\n200,0.9\n")
    table = read_coverage(tmp_path / "curve.csv", "draft.coverage")
    assert table.sizes.tolist() == [100, 200, 300]
    assert table.at(np.array([50, 150, 300, 999])).tolist() == pytest.approx([0.5, 0.7, 1.0, 1.0])


def test_a_selections_folder_gives_its_held_out_coverage(tmp_path):
    frame = pd.DataFrame({"vocab_size": [1, 2], "coverage_train": [0.9, 1.0], "coverage_heldout": [0.4, 0.6]})
    frame.to_parquet(tmp_path / "coverage.parquet")
    assert read_coverage(tmp_path, "draft.coverage").coverage.tolist() == [0.4, 0.6]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "key=.*curve.csv cannot be read"),
        ("size,share\n1,0.5\n", "needs the columns vocab_size and coverage"),
        ("vocab_size,coverage\n1,\n", "needs the columns vocab_size and coverage"),
        ("vocab_size,coverage\n1,50\n", "coverage must lie between 0 and 1"),
        ("vocab_size,coverage\n1,0.5\n2,0.4\n", "coverage must not fall"),
        ("domain,vocab_size,coverage\na,1,0.5\nb,1,0.4\n", "mixes domains: give the table of one"),
    ],
)
def test_what_is_no_coverage(tmp_path: Path, text, message):
    if text is not None:
        (tmp_path / "curve.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_coverage(tmp_path / "curve.csv", "key")
