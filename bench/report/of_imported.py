"""Results of other tools on a page: a section of a report, or a report of their own."""

from dataclasses import replace

from bench.analysis.imported import ImportedFindings
from bench.report.sections import Paragraph, Points, Section, Table, section

_SPEED = (
    "tool", "engine", "engine_version", "device", "domain", "concurrency", "vocab_size", "draft_length",
    "tokens_per_s", "mean_acceptance_length", "accepted_by_position", "num_requests",
)  # fmt: skip

_LATENCY = (
    "tool", "engine", "concurrency", "vocab_size", "draft_length", "first_token_p50_ms", "first_token_p90_ms",
    "first_token_p99_ms", "inter_token_p50_ms", "inter_token_p90_ms", "inter_token_p99_ms", "inter_token_of",
)  # fmt: skip

_BETWEEN = {
    "inter_token_p50_ms": "between tokens ms, median",
    "inter_token_p90_ms": "between tokens, 90th percentile",
    "inter_token_p99_ms": "between tokens, 99th percentile",
    "inter_token_of": "between",
}

_ORIGIN = ("run", "tool", "tool_version", "file", "model", "draft", "device", "num_failed", "duration_s")

_TITLE = "What do other tools measure of served models?"


def with_imported(report: Section, found: ImportedFindings) -> Section:
    """The report with a section of results of other tools before its method."""
    parts = list(report.parts)
    place = next((n for n, part in enumerate(parts) if getattr(part, "anchor", "") == "method"), len(parts))
    return replace(report, parts=[*parts[:place], _section(found), *parts[place:]])


def imported_report(found: ImportedFindings) -> Section:
    """The report of results of other tools alone."""
    return Section("report", "Results of other tools", [_section(found)])


def _section(found: ImportedFindings) -> Section:
    parts = section(
        "served",
        _TITLE,
        Paragraph(
            "Other tools sent requests to a server and timed what came back. Their figures are theirs: load, "
            "prompts and definitions differ between tools, so compare rows of one tool first."
        ),
        Table(
            "Output tokens/s of all requests. Other tools and engines: prefills included. Our own loop: one "
            "request at a time, without prefills. A dash: the file does not say it.",
            found.frame,
            _SPEED,
            is_brief=True,
            headings={"engine_version": "version"},
        ),
        Table(
            "Latency. The time between tokens is between arrivals (each brings the tokens of one step or "
            "round), between tokens (an arrival counts as several), between steps, or the mean of each "
            "request: see the last column.",
            found.timed,
            _LATENCY,
            headings=_BETWEEN,
        ),
        Points(found.notes),
        section(
            "served-more",
            "More: where these figures are from, and what is not shown",
            Table("Origin of every imported row.", found.of_other_tools, _ORIGIN),
            Paragraph(
                f"Fields of the files that are not used: {', '.join(found.left_out)}."
                if found.left_out
                else ""
            ),
            is_folded=True,
        ),
        label="Other tools",
    )
    assert parts is not None
    return parts
