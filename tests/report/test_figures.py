import matplotlib.pyplot as plt
import pytest

from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.report.drawing import draw
from bench.report.of_run import run_report
from bench.report.run_figures import (
    acceptance_figure,
    cross_figure,
    isolated_figure,
    latency_figure,
    position_figure,
    prediction_figure,
    round_figure,
    speedup_figure,
    surface_figure,
)
from tests.report.synthetic import write_run

SIZE = "draft vocabulary size k (tokens)"


@pytest.fixture
def found(tmp_path):
    yield Findings.of(read_run(write_run(tmp_path / "run")))
    plt.close("all")


def labels(figure):
    return {axis.get_ylabel() for axis in figure.axes} | {axis.get_xlabel() for axis in figure.axes}


def test_axes_carry_their_units(found):
    assert "speedup over plain decoding (x)" in labels(speedup_figure(found))
    assert {SIZE, "median draft step (ms)"} <= labels(latency_figure(found))
    assert {"draft length gamma (tokens)", "median latency (ms)"} <= labels(round_figure(found))
    shown = labels(acceptance_figure(found))
    assert {SIZE, "coverage\n(share of tokens)"} <= shown
    assert any(label.startswith("mean acceptance length") for label in shown)
    assert {SIZE, "draft length gamma (tokens)", "predicted tokens/s"} <= labels(surface_figure(found))
    assert {"measured tokens/s", "predicted tokens/s"} <= labels(prediction_figure(found))
    assert {"draft position", "acceptance at position\n(share of rounds)"} <= labels(position_figure(found))
    assert {"prompts of", "vocabulary chosen on"} <= labels(cross_figure(found))


def test_bars_are_those_of_the_records(found):
    heights = [p.get_height() for p in latency_figure(found).axes[0].patches]
    assert heights == pytest.approx([2.0, 2.0, 0.5, 5.5, 0.5, 0.5])
    widths = [p.get_width() for p in speedup_figure(found).axes[0].patches]
    assert max(widths) == pytest.approx(160 / 69)


def test_parts_on_their_own_are_drawn_beside_those_inside_rounds(found):
    figure = isolated_figure(found)
    assert {SIZE, "median LM head (ms)"} <= labels(figure)
    drawn = {c.get_label(): c.lines[0].get_ydata().tolist() for c in figure.axes[0].containers}
    assert drawn == {"inside rounds": [0.5, 5.5], "on its own, cold": [0.5, 5.5], "warm": [0.25, 2.75]}


def test_the_surface_marks_optimum_and_paper(found):
    axis = surface_figure(found).axes[0]
    marks = {line.get_label(): list(line.get_xdata()) for line in axis.get_lines()}
    assert marks["optimum"] == [10]
    assert marks["paper's k* at its best gamma"] == [20]
    assert axis.get_xscale() == "log"


def test_a_title_says_where_and_a_caption_how_many_and_which_intervals(found):
    title = speedup_figure(found).get_suptitle()
    for part in ("synthetic-pair", "synthetic device", "float32"):
        assert part in title
    captions = {picture.name: picture.caption for picture in run_report(found).pictures()}
    assert "(n = 2 prompts)" in captions["speedup"] and "95% interval" in captions["speedup"]
    # What no intervals can be drawn of says so.
    for name, caption in captions.items():
        assert "95%" in caption or "Counts" in caption or name in (
            "draft_latency", "cross_domain", "telemetry", "roofline",
        ), name  # fmt: skip


def test_every_figure_is_written_as_png_and_svg(found, tmp_path):
    pictures = run_report(found).pictures()
    assert draw(pictures, tmp_path / "figures") == ["telemetry"]
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {
        *("speedup", "surface", "acceptance", "position", "draft_latency", "round_latency", "prediction"),
        *("cross_domain", "isolated"),
    }
    for name in names:
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text()
