"""The run's report as one Markdown page."""

from pathlib import Path

from bench.fit.judge import Judgement, sentence
from bench.report.captions import METHOD, captions
from bench.report.doubts import doubts
from bench.report.facts import domain_facts, failure_fact, origin
from bench.report.fit_tables import fit_table
from bench.report.frames import Run
from bench.report.tables import Tables, decoded_table
from bench.report.verdict import Verdict


def write_report(
    run: Run,
    tables: Tables,
    verdicts: list[Verdict],
    judgement: Judgement | None,
    figures: list[Path],
    path: Path,
) -> None:
    """Writes the page; every number in it comes from the records."""
    environment, told = run.environment, captions(run)
    lines = [
        f"# How small should the draft vocabulary be? {environment['pair']} on {environment['device_name']}",
        "",
    ]
    for verdict in verdicts:
        lines += [f"- **{verdict.sentence()}**", *[f"  - {detail}" for detail in verdict.details()]]
    lines += ["", origin(run)]
    if found := doubts(run):
        lines += ["", "## Doubts", "", *[f"- {doubt.what}: {doubt.remedy}." for doubt in found]]
    if run.failures:
        lines += ["", "## Not measured", "", *[f"- {failure_fact(failure)}" for failure in run.failures]]
    for figure in figures:
        caption = told[figure.stem]
        lines += ["", f"![{caption}]({figure.parent.name}/{figure.name})", "", caption]
    for domain in run.decodes:
        lines += ["", f"## {domain}", ""]
        lines += [f"- {fact}" for fact in domain_facts(run, tables.summary, domain)]
        lines += ["", decoded_table(tables.summary, domain).to_markdown(index=False, disable_numparse=True)]
    lines += _fits(judgement) if judgement else []
    lines += ["", "## Reading it", "", *[f"- {text}" for text in METHOD], ""]
    path.write_text("\n".join(lines), "utf-8")


def _fits(judgement: Judgement) -> list[str]:
    """Which latency model holds here, and what each would choose."""
    lines = ["", "## Latency models"]
    for name, judged in judgement.components.items():
        table = fit_table(judged).drop(columns=["aicc"])
        lines += ["", f"**{name}**: {sentence(judgement, name)}", ""]
        lines.append(table.to_markdown(index=False, floatfmt=".3g", missingval=""))
    return lines
