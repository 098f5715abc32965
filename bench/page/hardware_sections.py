"""Several runs side by side, as a part of the page."""

from collections.abc import Collection

from bench.compare.captions import CAPTIONS
from bench.compare.hardware_report import HardwareReport
from bench.page.elements import Grid, Picture, Section

_TABLES = {
    "by_tokens_per_second": "Devices by measured tokens per second.",
    "by_tokens_per_joule": "Devices by measured tokens per joule; those without a measured energy come last.",
    "transfer": "Error of a device's latency model on another, after scaling by the data sheets.",
}


def hardware_section(report: HardwareReport, drawn: Collection[str]) -> Section:
    """What differs between devices, and what cannot be compared.

    Args:
        report: the comparison.
        drawn: names of the figures that there are.
    """
    tables = report.tables()
    empty = {
        "by_tokens_per_joule": report.best["tokens_per_joule"].isna().all(),
        "transfer": not len(tables["transfer"]),
    }
    shown = [Grid.of(tables[name], caption) for name, caption in _TABLES.items() if not empty.get(name)]
    limits = Section(
        "limits", "What differs between the runs, and what cannot be compared", points=report.limits()
    )
    return Section(
        "hardware",
        "How do the devices compare?",
        report.verdicts(),
        report.transfers(),
        [Picture(name, caption) for name, caption in CAPTIONS.items() if name in drawn],
        shown,
        [] if limits.is_empty else [limits],
    )
