"""The details of one run, in the order of a reader's questions."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pandas as pd

from bench.fit.judge import JudgedComponent, sentence
from bench.fit.models import PUBLISHED
from bench.fit.series import DRAFT_STEP, LM_HEAD, VERIFY
from bench.page.elements import Grid, Picture, Section
from bench.page.run_view import RunView, size_table
from bench.report.captions import captions
from bench.report.facts import domain_facts, failure_fact, origin
from bench.report.fit_tables import decision_table, fit_table
from bench.report.fit_tables import size_table as fit_size_table
from bench.report.tables import decoded_table, told, told_interval

# Not of interest to a reader of the page: they are in environment.json.
_HIDDEN = ("shapes",)
FIT_NAMES = {LM_HEAD: "LM head", DRAFT_STEP: "draft step", VERIFY: "verification"}
_LIMITS = {
    "bandwidth_share": "of the bandwidth",
    "peak_share": "of the peak",
    "launch_share": "fixed share (t0)",
}
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
    parts = [_component(view, drawn, name) for name in judgement.components]
    title = "Would FLOPs have picked it, and which latency model holds here?"
    return Section(_anchor(view, "models"), title, parts=parts)


def _component(view: RunView, drawn: Collection[str], name: str) -> Section:
    """The latency models of one part of a round."""
    judgement = view.judgement
    assert judgement is not None
    judged, what = judgement.components[name], FIT_NAMES[name]
    decisions = decision_table(judged)
    choices = Section(
        _anchor(view, f"choices-{name}"),
        f"What k would each model choose, by the {what}, on every domain?",
        grids=[Grid.of(decisions, f"{what}: the k that each model would choose, and what it loses.")],
        is_folded=True,
    )
    return Section(
        _anchor(view, f"models-{name}"),
        what,
        [sentence(judgement, name)],
        pictures=_pictures(view, drawn, f"fit_{name}"),
        grids=[
            Grid.of(_readable(fit_table(judged)), f"Latency models of {what}, best on held-out sizes first."),
            Grid.of(_by_size(judged), f"{what}: latency, what a size saves, and distance to the limits."),
        ],
        parts=[choices] if len(decisions) else [],
    )


def _by_size(judged: JudgedComponent) -> pd.DataFrame:
    """Measured latency and savings of every size as texts, beside those of FLOPs and of the best model."""
    table = fit_size_table(judged)
    shown = pd.DataFrame({name: table[name] for name in table.columns[:1]})
    measured = zip(table["measured_ms"], table["measured_ci_low"], table["measured_ci_high"], strict=True)
    shown["ms"] = [told_interval(*triple, ".3g") for triple in measured]
    if "reduction" in table:
        ends = zip(table["reduction"], table["reduction_ci_low"], table["reduction_ci_high"], strict=True)
        shown["R measured"] = [told_interval(*triple, ".3f") for triple in ends]
        for name, heading in ((PUBLISHED.name, "R by FLOPs"), (judged.best, "R by the best model")):
            if f"reduction_{name}" in table:
                shown[heading] = [told(value, ".3f") for value in table[f"reduction_{name}"]]
    for name, heading in _LIMITS.items():
        shown[heading] = [told(value, ".0%") for value in table[name]]
    return shown


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """What a reader looks for first comes first; shares as percentages."""
    shown = pd.DataFrame({"model": table["model"]})
    for name, heading in _SHARES.items():
        shown[heading] = [told(value, ".1%") for value in table[name]]
    shown["R2"] = [told(value, ".3f") for value in table["r2"]]
    shown["domain"], shown["gamma"] = table["domain"], table["draft_length"]
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
