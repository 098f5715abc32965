from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bench.analysis.findings import Findings
from bench.analysis.parallel import in_parallel
from bench.analysis.run import read_run
from bench.analysis.telemetry import measured_spans
from bench.fit.series import DTYPE_BYTES
from bench.report.drawing import INK, draw, telemetry_figure
from bench.report.latency_figures import roofline_figure
from bench.report.sections import Picture
from bench.telemetry.samples import Samples
from tests.report.synthetic import write_run

EXAMPLE = Path(__file__).parents[2] / "results" / "example"


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def test_the_roof_is_the_lower_of_bandwidth_and_peak_and_points_are_work_over_time():
    models = Findings.of(read_run(EXAMPLE)).latency_models
    judgement = models.judgement
    (axis,) = roofline_figure(models).axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == (
        "arithmetic intensity (FLOP/byte)",
        "work per time (GFLOP/s)",
    )
    lines = {line.get_label(): line for line in axis.get_lines()}
    roof = next(line for label, line in lines.items() if label.startswith("limit: "))
    x, y = roof.get_data()
    spec = judgement.spec
    peak = spec.peak_flops_per_s[judgement.dtype]
    assert np.allclose(y, np.minimum(np.asarray(x) * spec.memory_bytes_per_s, peak) / 1e9)
    assert roof.get_color() == INK and y[-1] == pytest.approx(peak / 1e9)
    # A head multiplies and adds once for every weight: two FLOPs for its bytes, and a little more moves.
    head = judgement.components["lm_head"].series
    x, y = lines["LM head"].get_data()
    most = 2 / DTYPE_BYTES[judgement.dtype]
    assert np.all((np.asarray(x) > 0.8 * most) & (np.asarray(x) <= most))
    assert y[-1] == pytest.approx(2 * 576 * 49152 / head.medians_ms[-1] / 1e6)


def test_what_was_sampled_is_drawn_over_the_time_of_the_run(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    assert telemetry_figure(Findings.of(run)) is None
    rows = [
        {"time_s": 5.0 + i, "power_w": 100.0 + i, "sm_clock_mhz": 1500, "memory_used_bytes": 2e9}
        for i in range(3)
    ]
    run.__dict__["samples"] = Samples([*rows, {"time_s": 9.0, "cpu_load": 0.5}])
    figure = telemetry_figure(Findings.of(run))
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "power (W)",
        "clock (MHz)",
        "load (share)",
        "GPU memory (GB)",
    ]
    assert figure.axes[-1].get_xlabel() == "time since the run began (s)"
    x, y = figure.axes[0].get_lines()[0].get_data()
    assert (list(x), list(y)) == ([0, 1, 2], [100, 101, 102])
    assert list(figure.axes[3].get_lines()[0].get_ydata()) == [2, 2, 2]
    assert list(figure.axes[2].get_lines()[0].get_xdata()) == [4]


def test_domains_that_took_turns_share_a_span():
    times = {"a": [(10, 11), (14, 15)], "b": [(12, 13)], "c": [(16, 17)]}
    run = SimpleNamespace(
        samples=Samples([{"time_s": 5.0}]),
        decodes=times,
        decodes_of=lambda domain: [SimpleNamespace(start_s=b, end_s=e) for b, e in times[domain]],
    )
    assert measured_spans(run) == {"a, b": (5, 10), "c": (11, 12)}


def test_the_same_drawing_is_the_same_file(tmp_path):
    def drawing():
        figure, axis = plt.subplots()
        axis.plot([1, 2], label="a")
        axis.legend()
        return figure

    pictures = [Picture("figure", "", drawing), Picture("nothing", "", lambda: None)]
    for name in ("first", "second"):
        assert draw(pictures, tmp_path / name, ("svg", "png", "pdf")) == ["nothing"]
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["figure.pdf", "figure.png", "figure.svg"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_results_come_in_order_and_the_first_error_is_raised():
    assert in_parallel([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
    assert in_parallel([]) == []

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_parallel([lambda: 1, fail])
