import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bench.analysis.devices import MOST_DETAILED
from bench.analysis.findings import Findings
from bench.analysis.run import name_of_run, read_run
from bench.report.of_run import run_report
from bench.report.tasks import report_runs
from tests.page.conftest import make_page
from tests.page.twin import EXAMPLE, NAME
from tests.report.synthetic import write_run

VOID = {"meta", "link", "br", "img", "input", "hr"}
FORMATS = ("png", "svg", "pdf")


class Outline(HTMLParser):
    """What a page holds, and whether its elements are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[name] for name in ("href", "src", "xlink:href") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def outline(example_page):
    return Outline(example_page.read_text("utf-8"))


def test_the_page_opens_with_the_answer_of_every_domain(outline):
    said = " ".join(outline.text.split())
    places = [said.index(answer.headline()) for answer in Findings.of(read_run(EXAMPLE)).answers]
    assert len(places) == 3 and places == sorted(places)
    assert places[-1] < said.rindex("What makes these figures doubtful")
    for domain in ("code", "function_calling", "writing"):
        assert f'make export ARGS="run={name_of_run(Path("runs"), EXAMPLE)} export.domain={domain}"' in said


def test_it_is_one_file_that_asks_for_nothing_else(outline):
    inside = [link for link in outline.links if link.startswith("#")]
    assert {link[1:] for link in inside} <= set(outline.ids)
    allowed = re.compile(r"(figures|tables)/\S*|data:(,|image/png;base64,\s.*)", re.DOTALL)
    assert all(allowed.fullmatch(link) for link in outline.links if link not in inside)


def test_elements_are_closed_and_ids_are_unique(outline):
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))


def test_every_link_to_a_file_has_its_file(example_page, outline):
    for link in outline.links:
        if link.startswith(("figures/", "tables/")):
            assert (example_page.parent / link).exists(), link


def test_every_figure_is_there_in_every_format_with_its_caption(example_page, outline):
    run = read_run(EXAMPLE)
    drawn = {path.stem for path in (example_page.parent / "figures").glob("*.png")}
    captions = {picture.name: picture.caption for picture in run_report(Findings.of(run)).pictures()}
    assert drawn == set(captions) - (set() if run.samples.rows else {"telemetry"})
    said = " ".join(outline.text.split())
    for name in drawn:
        assert captions[name] in said and f"figure-{name}" in outline.ids
        for suffix in FORMATS:
            assert (example_page.parent / "figures" / f"{name}.{suffix}").stat().st_size > 1000


def test_the_questions_are_answered_in_order(outline):
    said = " ".join(outline.text.split())
    titles = (
        "What do k tokens cover",
        "What does a draft step cost here",
        "Which (k, gamma) is fastest",
        "Would FLOPs have picked it",
        "What does a vocabulary chosen on one domain cost on another?",
        "Environment and configuration",
        "Method",
    )
    places = [said.rindex(title) for title in titles]
    assert places == sorted(places)


def test_figures_take_the_colours_of_the_page(example_page):
    text = example_page.read_text("utf-8")
    drawn = (example_page.parent / "figures" / "surface.svg").read_text()
    assert "#222223" in drawn and "#fffffe" in drawn
    assert "#222223" not in text and "#fffffe" not in text
    assert "prefers-color-scheme: dark" in text and "var(--ink)" in text


def test_tables_are_written_three_ways_and_say_what_the_records_say(example_page):
    tables = example_page.parent / "tables"
    for name in ("summary", "latency", "cross_domain", "sizes", "fit_draft_step"):
        for suffix in ("csv", "md", "tex"):
            assert (tables / f"{name}.{suffix}").stat().st_size > 0
    summary = pd.read_csv(tables / "summary.csv")
    pd.testing.assert_series_equal(
        summary["tokens_per_s"], pd.read_csv(EXAMPLE / "summary.csv")["tokens_per_s"], rtol=1e-6
    )


def test_a_second_device_draws_every_figure_of_the_comparison(merged_page):
    drawn = {path.stem for path in (merged_page.parent / "figures").glob("*.png")}
    names = ("speedup_by_size", "best_size", "acceptance_by_size", "draft_step_split", "throughput", "energy")
    assert {*names, "step_latency", "transfer"} <= drawn
    said = " ".join(Outline(merged_page.read_text("utf-8")).text.split())
    assert "How do the devices compare?" in said
    assert f"{NAME} is fastest as decoded" in said
    ranked = pd.read_csv(merged_page.parent / "tables" / "by_tokens_per_joule.csv")
    # The example has no sensor: it comes after the device that has one, without a place.
    assert ranked[ranked["place"] == 1]["device"].tolist() == [NAME] * 3
    assert ranked[ranked["place"].isna()]["device"].nunique() == 1


def test_more_runs_than_can_be_told_in_detail_are_compared_and_named(tmp_path):
    folders = [write_run(tmp_path / "runs" / f"r{i}") for i in range(MOST_DETAILED + 1)]
    for place, folder in enumerate(folders):
        path = folder / "environment.json"
        found = json.loads(path.read_text())
        path.write_text(json.dumps(found | {"host": f"host{place}", "device_name": f"device {place}"}))
    page = make_page(folders, tmp_path)
    said = " ".join(Outline(page.read_text("utf-8")).text.split())
    assert "Which (k, gamma) is fastest" not in said
    for folder in folders:
        assert f'make report ARGS="run={folder.name}"' in said


def test_what_a_machine_says_of_itself_cannot_break_the_page(tmp_path):
    folder = write_run(tmp_path / "runs" / "run")
    path = folder / "environment.json"
    found = json.loads(path.read_text()) | {"device_name": "<script>alert(1)</script>"}
    path.write_text(json.dumps(found))
    text = make_page([folder], tmp_path).read_text("utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text


def test_the_console_tells_the_answer_and_the_page(tmp_path):
    folder, said = write_run(tmp_path / "runs" / "run"), io.StringIO()
    page = report_runs([folder], tmp_path / "runs", tmp_path / "reports", None, Console(file=said, width=200))
    assert page == tmp_path / "reports" / "run" / "index.html"
    assert "code: trim to 10 tokens" in said.getvalue() and str(page) in said.getvalue()


def test_a_page_of_several_runs_is_named_after_the_newest(merged_page):
    assert merged_page.parent.name == "twin-and-1-more"
