"""The details of one run, in the order of a reader's questions."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pandas as pd

from bench.fit.judge import sentence
from bench.page.elements import Grid, Picture, Section
from bench.page.run_view import RunView, size_table
from bench.report.captions import captions
from bench.report.facts import domain_facts, failure_fact, origin
from bench.report.fit_figures import fit_table
from bench.report.tables import decoded_table, told

# Not of interest to a reader of the page: they are in environment.json.
_HIDDEN = ("shapes",)
# Columns of a table of latency models that are shares.
_SHARES = {
    "held_out_error": "held-out error",
    "fit_error": "fit error",
    "worst_error": "worst error",
    "predicted_saving": "predicted saving",
    "measured_saving": "measured saving",
}


def run_section(view: RunView, drawn: Collection[str]) -> Section:
    """Everything that there is to say of one run.

    Args:
        view: the run.
        drawn: names of the figures that there are.
    """
    run = view.surfaces.run
    parts = (
        _acceptance(view, drawn),
        _latency(view, drawn),
        _speed(view, drawn),
        _models(view, drawn),
        _elsewhere(view, drawn),
        Section(_anchor(view, "telemetry"), "Beside the run", pictures=_pictures(view, drawn, "telemetry")),
        _environment(view),
    )
    failed = [f"Not measured: {failure_fact(failure)}" for failure in run.failures]
    return Section(
        f"run-{run.folder.name}",
        f"{run.environment['pair']} on {view.label}",
        [f"Run {run.folder.name}. {origin(run)}"],
        failed,
        parts=[part for part in parts if not part.is_empty],
    )


def _acceptance(view: RunView, drawn: Collection[str]) -> Section:
    caption = (
        "{domain}: what sizes cover, how many tokens each brings per target pass at its fastest draft "
        "length, and the speed predicted from that (95% bootstrap interval over prompts)."
    )
    grids = [
        Grid.of(size_table(view.surfaces, domain).drop(columns="domain"), caption.format(domain=domain))
        for domain in view.surfaces.run.decodes
    ]
    return Section(
        _anchor(view, "acceptance"),
        "What do k tokens cover, and how many drafted tokens does the target accept?",
        pictures=_pictures(view, drawn, "acceptance", "position"),
        grids=grids,
    )


def _latency(view: RunView, drawn: Collection[str]) -> Section:
    return Section(
        _anchor(view, "latency"),
        "What does a draft step cost here, and how far is that from the hardware's limit?",
        pictures=_pictures(view, drawn, "draft_latency", "roofline", "round_latency", "isolated"),
    )


def _speed(view: RunView, drawn: Collection[str]) -> Section:
    run, summary = view.surfaces.run, view.tables.summary
    caption = "{domain}: everything that was decoded. 95% bootstrap intervals over {n} prompts, paired."
    parts = [
        Section(
            _anchor(view, f"speed-{domain}"),
            domain,
            points=domain_facts(run, summary, domain),
            grids=[
                Grid.of(
                    decoded_table(summary, domain), caption.format(domain=domain, n=len(run.prompts[domain]))
                )
            ],
        )
        for domain in run.decodes
    ]
    return Section(
        _anchor(view, "speed"),
        "Which (k, gamma) is fastest, and does decoding bear the prediction out?",
        pictures=_pictures(view, drawn, "surface", "speedup", "prediction"),
        parts=parts,
    )


def _models(view: RunView, drawn: Collection[str]) -> Section:
    judgement = view.judgement
    if judgement is None:
        return Section(_anchor(view, "models"), "")
    grids = [
        Grid.of(_readable(fit_table(judged)), f"Latency models of {name}, the best on held-out sizes first.")
        for name, judged in judgement.components.items()
    ]
    return Section(
        _anchor(view, "models"),
        "Would FLOPs have picked it, and which latency model holds here?",
        [sentence(judgement, name) for name in judgement.components],
        pictures=_pictures(view, drawn, *(f"fit_{name}" for name in judgement.components)),
        grids=grids,
    )


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """What a reader looks for first comes first; shares as percentages."""
    shown = pd.DataFrame({"model": table["model"]})
    for name, heading in _SHARES.items():
        shown[heading] = [told(value, ".1%") for value in table[name]]
    shown["R2"] = [told(value, ".3f") for value in table["r2"]]
    shown["chosen k"] = [told(value, ",.0f") for value in table["chosen_k"]]
    shown["regret tokens/s"] = [told(value, ".2f") for value in table["regret_tokens_per_s"]]
    return shown.assign(coefficients=table["coefficients"], note=table["note"])


def _elsewhere(view: RunView, drawn: Collection[str]) -> Section:
    return Section(
        _anchor(view, "domains"),
        "What does a vocabulary chosen on one domain cost on another?",
        pictures=_pictures(view, drawn, "cross_domain"),
        grids=[Grid.of(view.tables.cross, "Each domain under the vocabulary that suits each source.")],
    )


def _environment(view: RunView) -> Section:
    run = view.surfaces.run
    shown = {name: value for name, value in run.environment.items() if name not in _HIDDEN}
    facts = pd.DataFrame(_flat(shown), columns=["fact", "value"])
    settings = pd.DataFrame(_flat(run.config), columns=["key", "value"])
    return Section(
        _anchor(view, "environment"),
        "Environment and configuration",
        grids=[Grid.of(facts, "Where it was measured."), Grid.of(settings, "What it was asked for.")],
        is_folded=True,
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value below a mapping with the path of its names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), "not known" if value is None else str(value)


def _pictures(view: RunView, drawn: Collection[str], *names: str) -> list[Picture]:
    told = captions(view.surfaces.run)
    return [Picture(view.prefix + name, told[name]) for name in names if view.prefix + name in drawn]


def _anchor(view: RunView, name: str) -> str:
    return view.prefix + name
