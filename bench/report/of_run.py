"""The details of one run, in the order of a reader's questions."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.doubts import doubts
from bench.analysis.fit import decision_table, fit_table, judged
from bench.analysis.fit import size_table as fit_size_table
from bench.analysis.latency import latency_frame
from bench.analysis.run import Run, name_of_run
from bench.analysis.summary import held_out_tokens, summary_frame, token_energy
from bench.analysis.surfaces import Surfaces, cross_frame, measured_tokens_per_s
from bench.analysis.verdict import (
    Verdict,
    domain_facts,
    energy_fact,
    failure_fact,
    origin,
    verdicts,
    with_interval,
)
from bench.fit.judge import JudgedComponent, Judgement, sentence
from bench.fit.models import Published
from bench.fit.series import DRAFT_STEP, LM_HEAD, VERIFY
from bench.report.drawing import Drawings
from bench.report.run_figures import METHOD, captions, run_drawings
from bench.report.sections import Grid, Picture, Section, Tables, decoded_table, told, told_interval

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


# One run with everything that is computed of it once, for its part of a page.


@dataclass(frozen=True)
class RunView:
    """A run whose details are shown.

    Attributes:
        label: of its device.
        surfaces: of the run.
        prefix: of the names of its figures and tables; empty where the page shows one run.
    """

    label: str
    surfaces: Surfaces
    prefix: str

    @cached_property
    def tables(self) -> Tables:
        """As figures take them."""
        run = self.surfaces.run
        return Tables(latency_frame(run), summary_frame(self.surfaces), cross_frame(self.surfaces))

    @cached_property
    def judgement(self) -> Judgement | None:
        """Of its latency models; None for a run that does not say what to judge by."""
        return judged(self.surfaces)

    def drawings(self) -> Drawings:
        """By file name."""
        found = run_drawings(self.surfaces, self.tables, self.judgement)
        return {self.prefix + name: drawing for name, drawing in found.items()}

    def files(self) -> dict[str, pd.DataFrame]:
        """Tables by file name."""
        found = {
            "summary": self.tables.summary,
            "latency": self.tables.latency,
            "cross_domain": self.tables.cross,
            "sizes": pd.concat([size_table(self.surfaces, d) for d in self.surfaces.run.decodes]),
        }
        if self.judgement:
            for name, component in self.judgement.components.items():
                found[f"fit_{name}"] = fit_table(component)
                found[f"fit_{name}_sizes"] = fit_size_table(component)
                if len(decisions := decision_table(component)):
                    found[f"fit_{name}_decisions"] = decisions
        return {self.prefix + name: table for name, table in found.items()}


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
        for name, heading in ((Published.name, "R by FLOPs"), (judged.best, "R by the best model")):
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


# The answer that a page opens with: per domain and device, what to use and what it buys.


@dataclass(frozen=True)
class Answer:
    """One domain on one device.

    Attributes:
        device: its label.
        verdict: in numbers and words.
        tokens_per_s: measured, of the optimum.
        coverage: of held-out answers by its vocabulary.
        j_per_token: measured; None where it is not known.
        details: what else there is to know before acting on it.
        export_command: that writes the vocabulary and the trimmed draft.
    """

    device: str
    verdict: Verdict
    tokens_per_s: float
    coverage: float
    j_per_token: float | None
    details: list[str]
    export_command: str

    @property
    def badge(self) -> str:
        """The verdict in a word or three."""
        return self.kind.replace("_", " ")

    @property
    def kind(self) -> str:
        """The verdict as a name for styles."""
        return self.verdict.decision.value

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Name and value of what decides."""
        verdict, (size, gamma) = self.verdict, self.verdict.best
        energy, full = told(self.j_per_token, ".3g"), verdict.over_full
        over_full = "it is the full vocabulary" if full is None else with_interval(full)
        return [
            ("k", f"{size:,} of {verdict.full_size:,}"),
            ("fewer tokens", f"{1 - size / verdict.full_size:.1%}"),
            ("gamma", str(gamma)),
            ("over the full-vocabulary draft", over_full),
            ("over plain decoding", with_interval(verdict.over_plain)),
            ("tokens/s", f"{self.tokens_per_s:,.1f}"),
            ("held-out coverage", f"{self.coverage:.1%}"),
            ("energy per token", f"{energy} J" if energy else "not known"),
        ]


def answers_of(device: str, surfaces: Surfaces, runs_dir: Path) -> list[Answer]:
    """One per domain of a run.

    Args:
        device: its label.
        surfaces: of the run.
        runs_dir: where runs are kept; one that lies elsewhere is named by its path.
    """
    run = surfaces.run
    name = name_of_run(runs_dir, run.folder)
    found = []
    for verdict in verdicts(surfaces):
        domain, size = verdict.domain, verdict.best[0]
        ranking, energy = run.rankings[run.plans[domain].source], token_energy(run, domain, verdict.best)
        found.append(
            Answer(
                device,
                verdict,
                measured_tokens_per_s(run, domain)[verdict.best],
                float(ranking.coverage_of(held_out_tokens(run, domain))[size - 1]),
                energy.j_per_token,
                [*verdict.details(), energy_fact(run, domain)],
                f'make export ARGS="run={name} export.domain={domain}"',
            )
        )
    return found


def answer_grid(answers: Sequence[Answer]) -> Grid:
    """All answers as one table, to be sorted."""
    headings = [
        "domain", "device", "verdict", "k", "fewer tokens", "gamma", "tokens/s",
        "x full vocabulary [95%]", "x plain [95%]", "held-out coverage", "J/token", "num prompts", "export",
    ]  # fmt: skip
    rows = [
        [
            answer.verdict.domain,
            answer.device,
            answer.badge,
            f"{answer.verdict.best[0]:,}",
            f"{1 - answer.verdict.best[0] / answer.verdict.full_size:.1%}",
            str(answer.verdict.best[1]),
            f"{answer.tokens_per_s:,.1f}",
            _interval(answer.verdict.over_full),
            _interval(answer.verdict.over_plain),
            f"{answer.coverage:.3f}",
            told(answer.j_per_token, ".3g"),
            str(answer.verdict.num_prompts),
            answer.export_command,
        ]
        for answer in answers
    ]
    caption = (
        "What to use on every device: measured, of the optimum as it was decoded; 95% bootstrap intervals "
        "over prompts, resampled as pairs."
    )
    return Grid(caption, headings, rows, [False] * 3 + [True] * 9 + [False])


def _interval(estimate) -> str:
    return "" if estimate is None else told_interval(estimate.value, estimate.ci_low, estimate.ci_high, ".2f")


def size_table(surfaces: Surfaces, domain: str) -> pd.DataFrame:
    """Coverage, acceptance and predicted speed of the sizes that were probed, at the best draft length."""
    run, surface = surfaces.run, surfaces.of(domain)
    sizes = np.unique([*surfaces.latency[domain].sizes.tolist(), surface.best[0]])
    ranking = run.rankings[run.plans[domain].source]
    columns = [surface.column(int(size)) for size in sizes]
    rows = surface.tokens_per_s[:, columns].argmax(axis=0)
    return pd.DataFrame({
        "domain": domain,
        "vocab_size": sizes,
        "coverage_heldout": ranking.coverage_of(held_out_tokens(run, domain))[sizes - 1],
        "coverage_ranking": ranking.coverage()[sizes - 1],
        "draft_length": np.array(surface.draft_lengths)[rows],
        "mean_acceptance_length": surface.mean_acceptance_length[rows, columns],
        "acceptance_rate": surface.acceptance_rate[rows, columns],
        "predicted_tokens_per_s": surface.tokens_per_s[rows, columns],
        "predicted_ci_low": surface.ci_low[rows, columns],
        "predicted_ci_high": surface.ci_high[rows, columns],
        "in_confidence_set": surface.is_confident[rows, columns],
    })  # fmt: skip


# The run's report as one Markdown page.


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
    for name, component in judgement.components.items():
        table = fit_table(component).drop(columns=["aicc"])
        lines += ["", f"**{name}**: {sentence(judgement, name)}", ""]
        lines.append(table.to_markdown(index=False, floatfmt=".3g", missingval=""))
    return lines
