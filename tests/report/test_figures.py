import matplotlib.pyplot as plt
import pytest

from bench.analysis.latency import latency_frame
from bench.analysis.run import read_run
from bench.analysis.summary import summary_frame
from bench.analysis.surfaces import Surfaces, cross_frame
from bench.report.drawing import draw
from bench.report.run_figures import (
    acceptance_figure,
    cross_figure,
    isolated_figure,
    latency_figure,
    position_figure,
    prediction_figure,
    round_figure,
    run_drawings,
    speedup_figure,
    surface_figure,
)
from bench.report.sections import Tables
from tests.report.synthetic import write_run

SIZE = "draft vocabulary size k (tokens)"


@pytest.fixture
def parts(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    surfaces = Surfaces(run)
    yield surfaces, Tables(latency_frame(run), summary_frame(surfaces), cross_frame(surfaces))
    plt.close("all")


def labels(figure):
    return {axis.get_ylabel() for axis in figure.axes} | {axis.get_xlabel() for axis in figure.axes}


def test_axes_carry_their_units(parts):
    surfaces, tables = parts
    run = surfaces.run
    assert "speedup over plain decoding (x)" in labels(speedup_figure(run, tables.summary))
    assert {SIZE, "median draft step (ms)"} <= labels(latency_figure(run, tables.latency))
    assert {"draft length gamma (tokens)", "median latency (ms)"} <= labels(round_figure(run, tables.latency))
    found = labels(acceptance_figure(surfaces))
    assert {SIZE, "coverage\n(share of tokens)"} <= found
    assert any(label.startswith("mean acceptance length") for label in found)
    assert {SIZE, "draft length gamma (tokens)", "predicted tokens/s"} <= labels(surface_figure(surfaces))
    assert {"measured tokens/s", "predicted tokens/s"} <= labels(prediction_figure(run, tables.summary))
    assert {"draft position", "acceptance at position\n(share of rounds)"} <= labels(
        position_figure(surfaces)
    )
    assert {"prompts of", "vocabulary chosen on"} <= labels(cross_figure(run, tables.cross))


def test_bars_are_those_of_the_records(parts):
    surfaces, tables = parts
    heights = [p.get_height() for p in latency_figure(surfaces.run, tables.latency).axes[0].patches]
    assert heights == pytest.approx([2.0, 2.0, 0.5, 5.5, 0.5, 0.5])
    widths = [p.get_width() for p in speedup_figure(surfaces.run, tables.summary).axes[0].patches]
    assert max(widths) == pytest.approx(160 / 69)


def test_parts_on_their_own_are_drawn_beside_those_inside_rounds(parts):
    surfaces, tables = parts
    figure = isolated_figure(surfaces.run, tables.latency)
    assert {SIZE, "median LM head (ms)"} <= labels(figure)
    drawn = {c.get_label(): c.lines[0].get_ydata().tolist() for c in figure.axes[0].containers}
    assert drawn == {"inside rounds": [0.5, 5.5], "on its own, cold": [0.5, 5.5], "warm": [0.25, 2.75]}


def test_the_surface_marks_optimum_and_paper(parts):
    axis = surface_figure(parts[0]).axes[0]
    marks = {line.get_label(): list(line.get_xdata()) for line in axis.get_lines()}
    assert marks["optimum"] == [10]
    assert marks["paper's k* at its best gamma"] == [20]
    assert axis.get_xscale() == "log"


def test_the_caption_names_pair_device_dtype_and_sample_size(parts):
    surfaces, tables = parts
    title = speedup_figure(surfaces.run, tables.summary).get_suptitle()
    for part in ("synthetic-pair", "synthetic device", "float32", "code n = 2", "95% bootstrap"):
        assert part in title


def test_every_figure_is_written_as_png_and_svg(parts, tmp_path):
    names = {path.stem for path in draw(run_drawings(*parts, None), tmp_path / "figures")}
    assert names == {
        *("speedup", "surface", "acceptance", "position", "draft_latency", "round_latency", "prediction"),
        *("cross_domain", "isolated"),
    }
    for name in names:
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text()
