import io

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from rich.console import Console

from bench.report.of_gpus import gain_figure, gpus_report, head_figure, speed_figure, truth_figure
from bench.report.tasks import render_gpus
from tests.analysis.test_gpus import asked
from tests.gpu_tables.synthetic import GPU
from tests.report.test_figures import SIZE, labels


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_axes_carry_their_units():
    found = asked()
    figure = gain_figure(found)
    assert (figure.get_supxlabel(), figure.get_supylabel()) == (
        "batch (sequences)", "speed over the whole head (x)",
    )  # fmt: skip
    assert {SIZE, "speed over plain decoding (x)"} <= labels(speed_figure(found))
    figure = head_figure(found)
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("rows of the head", "latency (ms)")
    assert {"measured time per output token (ms)", "composed (ms)"} <= labels(truth_figure(found))


def test_the_page_says_that_others_measured_and_what_figures_rest_on(tmp_path):
    said = io.StringIO()
    page = render_gpus(asked(), tmp_path / "page", Console(file=said, width=160)).read_text("utf-8")
    for part in ("Measured by others, composed here", "tiny 1.0 (MIT)", "extrapolated", "What is assumed"):
        assert part in page
    row = asked().choices.iloc[0]
    for text in (page, said.getvalue()):
        assert GPU in text and f"{row['vocab_size']:,}" in text
    written = pd.read_csv(tmp_path / "page" / "tables" / "choices.csv")
    assert written["vocab_size"].tolist() == asked().choices["vocab_size"].tolist()


def test_every_figure_names_what_its_intervals_or_marks_are():
    captions = {picture.name: picture.caption for picture in gpus_report(asked()).pictures()}
    assert set(captions) == {"gpus_gain", "gpus_speed", "gpus_heads", "gpus_check"}
    assert "95% intervals of acceptance and table errors" in captions["gpus_gain"]
