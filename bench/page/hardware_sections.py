"""Several runs side by side, as a part of the page."""

from collections.abc import Collection

import pandas as pd

from bench.compare.captions import CAPTIONS
from bench.compare.hardware_report import HardwareReport
from bench.page.elements import Grid, Picture, Section
from bench.report.tables import told

_TABLES = {
    "by_tokens_per_second": "Devices by measured tokens per second.",
    "by_tokens_per_joule": "Devices by measured tokens per joule; those without a measured energy come last.",
    "transfer": "Error of a device's latency model on another, after scaling by the data sheets.",
}
_MODEL_SHARES = {
    "measured_saving": "measured saving",
    "flops_predicted_saving": "saving by FLOPs",
    "flops_held_out_error": "error of FLOPs",
    "held_out_error": "error of the best model",
    "flops_largest_regret_share": "lost by FLOPs",
    "bandwidth_share": "of the bandwidth",
    "launch_share": "fixed share (t0)",
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
        [part for part in (_models(report), limits) if not part.is_empty],
    )


def _models(report: HardwareReport) -> Section:
    """What FLOPs would have saved and lost on every device."""
    table = report.models
    several = table["case"].nunique() > 1
    shown = pd.DataFrame({"case": table["case"]} if several else {})
    shown["device"] = table["device"]
    for name, heading in _MODEL_SHARES.items():
        shown[heading] = [told(value, ".1%") for value in table[name]]
    shown.insert(len(shown.columns) - 2, "on", [value or "" for value in table["flops_regret_domain"]])
    shown["best model"], shown["note"] = table["best_model"], table["note"]
    caption = (
        "Latency models of a chained draft step on every device. Savings: of the smallest size that was "
        "measured, over the full vocabulary. Lost: speed that the k of FLOPs gives away on the domain where "
        "it loses most. Limits: of the step with the full vocabulary."
    )
    return Section("models", "Would FLOPs have picked it on these devices?", grids=[Grid.of(shown, caption)])
