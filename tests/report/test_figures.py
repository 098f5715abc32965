import matplotlib.pyplot as plt
import pytest

from bench.report.figures import acceptance_figure, draw_all, latency_figure, speedup_figure
from bench.report.frames import latency_frame, read_run, summary_frame
from tests.report.synthetic import write_run


@pytest.fixture
def parts(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    latency = latency_frame(run)
    yield run, latency, summary_frame(run, latency)
    plt.close("all")


def labels(figure):
    return {axis.get_ylabel() for axis in figure.axes} | {axis.get_xlabel() for axis in figure.axes}


def test_axes_carry_their_units(parts):
    run, latency, summary = parts
    size = "draft vocabulary size k (tokens)"
    assert {size, "speedup over\nplain decoding (x)"} <= labels(speedup_figure(run))
    assert {size, "median draft step (ms)"} <= labels(latency_figure(run, latency))
    found = labels(acceptance_figure(run, summary))
    assert {size, "coverage\n(share of tokens)"} <= found
    assert any(label.startswith("mean acceptance length") for label in found)


def test_k_is_logarithmic_and_values_are_those_of_the_records(parts):
    run, latency, _ = parts
    axis = speedup_figure(run).axes[1]
    assert axis.get_xscale() == "log"
    line = axis.get_lines()[0]
    assert list(line.get_xdata()) == [10, 100]
    assert line.get_ydata() == pytest.approx([99 / 69, 1.0])
    heights = [patch.get_height() for patch in latency_figure(run, latency).axes[0].patches]
    assert heights == pytest.approx([2.0, 2.0, 0.5, 5.5, 0.5, 0.5])


def test_the_caption_names_pair_device_dtype_and_sample_size(parts):
    run, _, _ = parts
    title = speedup_figure(run).get_suptitle()
    for part in ("synthetic-pair", "synthetic device", "float32", "code n = 2", "95% bootstrap"):
        assert part in title


def test_every_figure_is_written_as_png_and_svg(parts, tmp_path):
    names = {path.stem for path in draw_all(*parts, tmp_path / "figures")}
    assert names == {"speedup", "draft_latency", "acceptance"}
    for name in names:
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text()
