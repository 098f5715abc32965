"""One tree, three renderers: what each shows of the same report."""

import io

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from rich.console import Console

from bench.report.console import show
from bench.report.drawing import draw
from bench.report.markdown import write_markdown
from bench.report.page import write_page
from bench.report.sections import Card, Grid, Paragraph, Picture, Points, Section, Table, section

FRAME = pd.DataFrame({
    "role": ["plain", "optimum+lossless"],
    "vocab_size": [49152, 1024],
    "tokens_per_s": [36.84, 64.21],
    "speedup_vs_full_vocab": [None, 1.2166],
    "speedup_vs_full_vocab_ci_low": [None, 1.1],
    "speedup_vs_full_vocab_ci_high": [None, 1.3],
    "energy_j_per_token": [None, None],
    "coverage_ranking": [None, 0.5],
})  # fmt: skip
COLUMNS = tuple(FRAME)[:4] + ("energy_j_per_token", "coverage_ranking")


def drawn():
    figure, axis = plt.subplots()
    axis.plot([1, 2])
    return figure


@pytest.fixture
def report():
    table = Table("A caption.", FRAME, COLUMNS, "A legend.", is_brief=True)
    gains = Grid(["", "decoded", "predicted"], [["over plain", "1.7x", "1.6x"]], [False, True, True])
    card = Card(
        "code", "GPU", "trim", "good", "Trim.", "code: trim.", gains, "They differ.", [("prompts", "8")],
        "make export", ["firm"], is_brief=True,
    )  # fmt: skip
    parts = [
        Paragraph("Lead."),
        section("answer", "The answer", card),
        section("empty", "Nothing", Points([]), Paragraph(""), Table("", FRAME[:0], COLUMNS)),
        section(
            "speed",
            "Speed?",
            Picture("one", "Caption <one>.", drawn),
            table,
            section("more", "More: rest", Picture("two", "Caption two.", lambda: None), is_folded=True),
        ),
        section("doubts", "Doubts", Points(["Hot."], is_brief=True, mark="Doubt:"), Paragraph("Quiet.")),
    ]
    return Section("report", "A report", [part for part in parts if part])


def test_a_section_that_says_nothing_is_none(report):
    assert [part.anchor for part in report.parts if isinstance(part, Section)] == [
        "answer",
        "speed",
        "doubts",
    ]


def test_a_figure_that_shows_nothing_goes_and_its_section_too(report, tmp_path):
    empty = draw(report.pictures(), tmp_path)
    plt.close("all")
    assert empty == ["two"]
    left = report.without_pictures(empty)
    assert [picture.name for picture in left.pictures()] == ["one"]
    assert "more" not in {block.anchor for block in left.blocks() if isinstance(block, Section)}


def test_a_table_merges_intervals_and_leaves_empty_columns_out(report):
    (table,) = (block for block in report.blocks() if isinstance(block, Table))
    grid = table.grid()
    assert grid.headings == ["what", "k", "tokens/s", "x full vocabulary", "coverage of ranking answers"]
    assert grid.rows == [
        ["plain", "49,152", "36.8", "–", "–"],
        ["optimum, same passes", "1,024", "64.2", "1.22 [1.10, 1.30]", "50.0%"],
    ]
    assert grid.is_numeric == [False, True, True, True, True]
    short = table.short_grid()
    assert short.headings == ["what", "k", "tok/s", "x full"]
    assert short.rows[1] == ["optimum, same passes", "1,024", "64.2", "1.22"]


def test_the_console_shows_what_is_brief_and_ends_with_the_answer(report):
    file = io.StringIO()
    show(report, Console(file=file, width=100))
    lines = [line.strip() for line in file.getvalue().splitlines() if line.strip()]
    assert lines[0] == "A report" and lines[1] == "Doubt: Hot." and lines[-1] == "code: trim."
    said = " ".join(lines)
    assert "64.2" in said and "Quiet" not in said and "Lead" not in said and "Trim." not in said


def test_a_narrow_console_folds_labels_and_cuts_none(report):
    file = io.StringIO()
    show(report, Console(file=file, width=34))
    said = file.getvalue()
    assert "…" not in said and "64.2" in said
    assert all(word in said for word in ("optimum,", "same", "passes"))


def test_markdown_and_page_show_everything(report, tmp_path):
    left = report.without_pictures(draw(report.pictures(), tmp_path / "figures"))
    plt.close("all")
    write_markdown(report, tmp_path / "report.md")
    markdown = (tmp_path / "report.md").read_text("utf-8")
    for text in ("# A report", "## Speed?", "**code: trim.**", "They differ.", "- Prompts: 8.", "- firm"):
        assert text in markdown
    assert "![one](figures/one.png)" in markdown and "1.22 [1.10, 1.30]" in markdown
    assert "<details>\n<summary>More: rest</summary>\n\n![two]" in markdown
    page = write_page(left, tmp_path).read_text("utf-8")
    for text in ("A report", 'id="speed"', "Trim.", "They differ.", "firm", "A legend.", "Quiet."):
        assert text in page
    assert "Caption &lt;one&gt;." in page and "figure-one" in page and "figure-two" not in page
