"""The report of one run, in a reader's order, and the parts of it that a report of several shows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.analysis.figures import OVER_FULL_BEST, OVER_PLAIN, SPEED, Gain
from bench.analysis.findings import Findings
from bench.analysis.latency_models import ComponentFindings, LatencyFindings
from bench.analysis.metrics import ROLE_LEGEND, format_estimate, format_value
from bench.analysis.run import GRAPH, Run
from bench.analysis.verdict import Answer
from bench.report import run_figures
from bench.report.drawing import Captioned, Sampled, telemetry_figure
from bench.report.latency_figures import fit_captioned, roofline_figure
from bench.report.of_engines import engines_section
from bench.report.sections import Block, Card, Grid, Paragraph, Picture, Points, Section, Table, section

# Not of interest to a reader: they are in environment.json.
_HIDDEN = ("shapes",)

_DECODED = (
    "role", "vocab_size", "draft_length", "tokens_per_s", "speedup_vs_full_vocab",
    "speedup_vs_autoregressive", "predicted_tokens_per_s", "prediction_error", "mean_acceptance_length",
    "coverage_heldout", "energy_j_per_token",
)  # fmt: skip

_DECODED_MORE = (
    "role", "vocab_size", "draft_length", "acceptance_rate", "draft_step_ms", "lm_head_ms", "verify_ms",
    "identical_output_frac",
)  # fmt: skip

_SIZES = (
    "vocab_size", "coverage_heldout", "coverage_ranking", "draft_length", "mean_acceptance_length",
    "acceptance_rate", "predicted_tokens_per_s", "in_confidence_set",
)  # fmt: skip

_CROSS = (
    "source", "domain", "vocab_size", "draft_length", "mean_acceptance_length", "full_mean_acceptance_length",
    "predicted_speedup_vs_full_vocab", "num_prompts",
)  # fmt: skip

_MODELS = (
    "model", "held_out_error", "fit_error", "worst_error", "predicted_saving", "measured_saving", "r2",
    "domain", "draft_length", "chosen_k", "regret_tokens_per_s", "coefficients", "note",
)  # fmt: skip

_BY_SIZE = (
    "vocab_size", "num_tokens", "measured_ms", "reduction", "reduction_flops_published", "reduction_best",
    "bandwidth_share", "peak_share", "launch_share",
)  # fmt: skip

_DECISIONS = (
    "domain", "draft_length", "model", "chosen_k", "best_k", "tokens_per_s", "best_tokens_per_s",
    "regret_tokens_per_s", "regret_share", "chosen_k_by_utility", "regret_utility",
)  # fmt: skip

TITLE = "How small should the draft vocabulary be?"


def run_report(found: Findings) -> Section:
    """The report of one run."""
    environment = found.run.environment
    return Section(
        "report",
        f"{TITLE} {environment['pair']} on {environment['device_name']}",
        _present(
            Paragraph(f"Run {found.run.folder.name}. {found.origin}"),
            section("answer", "The answer", *cards([found], is_brief=True)),
            doubt_section([found], is_brief=True),
            not_measured(found.failures),
            *run_sections(found, is_brief=True),
            section("method", "Method", Points(run_figures.METHOD)),
        ),
    )


def run_sections(found: Findings, prefix: str = "", is_brief: bool = False) -> Iterator[Section | None]:
    """Everything that there is to say of one run, a section per question.

    Args:
        found: what the run says.
        prefix: of the names of its figures and anchors, where a report shows several runs.
        is_brief: whether the console shows what was decoded.
    """
    view = _View(found, prefix)
    yield view.acceptance()
    yield view.latency()
    yield view.speed(is_brief)
    yield engines_section(found, prefix, is_brief)
    yield view.models()
    yield view.across()
    yield telemetry_section(found, found.sample_sizes, prefix)
    yield environment_section(found.run, prefix)


@dataclass(frozen=True)
class _View:
    """A run in a report; the prefix is of its figures and anchors."""

    found: Findings
    prefix: str

    def section(
        self, name: str, title: str, *parts: Block | None, folded: bool = False, label: str = ""
    ) -> Section | None:
        return section(self.prefix + name, title, *parts, is_folded=folded, label=label)

    def picture(self, figure: Captioned[Any], of: Any = None) -> Picture:
        return figure.picture(of or self.found, self.found.sample_sizes, self.prefix)

    def probed(self, figure: Captioned[Any], of: Any = None) -> Picture:
        return figure.picture(of or self.found, self.found.probed_sample_sizes, self.prefix)

    def replayed(self, figure: Captioned[Any]) -> Picture:
        return figure.picture(self.found, self.found.replayed_sample_sizes, self.prefix)

    def acceptance(self) -> Section | None:
        found = self.found
        caption = (
            "{}: what sizes cover, how many tokens each brings per target pass at its fastest draft length, "
            "and the speed predicted from that, with its 95% interval."
        )
        tables = [
            Table(caption.format(domain), found.sizes[found.sizes["domain"] == domain], _SIZES)
            for domain in found.domains
        ]
        return self.section(
            "acceptance",
            "What do k tokens cover, and how many drafted tokens does the target accept?",
            self.replayed(run_figures.acceptance_figure),
            self.section(
                "acceptance-more",
                "More: acceptance by draft position, and every probed size in numbers",
                self.replayed(run_figures.position_figure),
                *tables,
                folded=True,
            ),
            label="Acceptance",
        )

    def latency(self) -> Section | None:
        models = self.found.latency_models
        return self.section(
            "latency",
            "What does a draft step cost here, and how far is that from the hardware's limit?",
            self.probed(
                run_figures.graph_latency_figure
                if self.found.run.execution == GRAPH
                else run_figures.latency_figure
            ),
            self.section(
                "latency-more",
                "More: the roofline, the other parts of a round, and parts on their own",
                self.probed(roofline_figure, models) if models else None,
                self.probed(run_figures.round_figure),
                self.probed(run_figures.isolated_figure),
                folded=True,
            ),
            label="Draft step",
        )

    def speed(self, is_brief: bool) -> Section | None:
        found = self.found
        return self.section(
            "speed",
            "Which (k, gamma) is fastest, and does measured speed match the prediction?",
            self.picture(run_figures.surface_figure),
            self.picture(run_figures.speedup_figure),
            *(self.decoded(domain, is_brief) for domain in found.domains),
            Paragraph(ROLE_LEGEND),
            self.section(
                "speed-more",
                "More: prediction against measurement, and what each draft took",
                self.picture(run_figures.prediction_figure),
                *(
                    Table(f"{domain}: medians inside the decodes.", self.of_domain(domain), _DECODED_MORE)
                    for domain in found.domains
                ),
                folded=True,
            ),
            Points(found.baselines, is_brief, mark=""),
            label="Speed",
        )

    def decoded(self, domain: str, is_brief: bool) -> Section | None:
        num_prompts = len(self.found.run.prompts[domain])
        caption = (
            f"Everything that was decoded, and what was predicted of it for these {num_prompts} prompts. "
            "Intervals of decodes: 95%, bootstrap over prompts as pairs."
        )
        more = ("lm_head_ms", "identical_output_frac")
        return self.section(
            f"speed-{domain}",
            domain,
            Table(caption, self.of_domain(domain), _DECODED, is_brief=is_brief, brief_columns=more),
            Points(self.found.facts(domain)),
        )

    def of_domain(self, domain: str) -> pd.DataFrame:
        return self.found.summary[self.found.summary["domain"] == domain]

    def models(self) -> Section | None:
        models = self.found.latency_models
        parts = [self.component(item) for item in models.components] if models else []
        title = "Would FLOPs have picked it, and which latency model holds here?"
        return self.section("models", title, *parts, label="Latency models")

    def component(self, item: ComponentFindings) -> Section | None:
        return self.section(
            f"models-{item.name}",
            item.title,
            Paragraph(item.sentence),
            self.section(
                f"models-{item.name}-more",
                f"More: the models of the {item.title}, size by size, and what each would choose",
                self.probed(fit_captioned(item), item),
                *model_tables(item),
                Table(
                    f"{item.title}: the k that each model would choose on every domain, and what it loses.",
                    item.decisions,
                    _DECISIONS,
                ),
                folded=True,
            ),
        )

    def across(self) -> Section | None:
        return self.section(
            "domains",
            "What does a vocabulary chosen on one domain cost on another?",
            Paragraph(self.found.across),
            self.section(
                "domains-more",
                "More: every domain under every vocabulary",
                self.replayed(run_figures.cross_figure),
                Table("Each domain under the vocabulary that suits each source.", self.found.cross, _CROSS),
                folded=True,
            ),
            label="Other domains",
        )


def telemetry_section(found: Sampled, n: str, prefix: str = "") -> Section | None:
    """What was sampled beside a run."""
    return section(
        f"{prefix}telemetry",
        "What was sampled beside the run?",
        telemetry_figure.picture(found, n, prefix),
        is_folded=True,
        label="Telemetry",
    )


def environment_section(run: Run, prefix: str = "") -> Section | None:
    """Where a run was measured, and what it was asked for."""
    shown = {name: value for name, value in run.environment.items() if name not in _HIDDEN}
    return section(
        f"{prefix}environment",
        "Environment and configuration",
        _settings("Where it was measured.", shown, "not known"),
        _settings("What it was asked for.", run.config, "not set"),
        is_folded=True,
        label="Environment",
    )


def model_tables(item: ComponentFindings, is_brief: bool = False) -> list[Table]:
    """The latency models of a component, and what they say size by size."""
    caption = f"Latency models of the {item.title}, best on held-out sizes first."
    return [
        Table(caption, item.models, _MODELS, is_brief=is_brief),
        Table(f"{item.title}: latency, what a size saves, and distance to the limits.", item.sizes, _BY_SIZE),
    ]


def models_report(models: LatencyFindings) -> Section:
    """The latency models alone, as the console shows them after they were judged again."""
    sections = [
        section(
            item.name,
            item.title,
            *model_tables(item, is_brief=True),
            Paragraph(item.sentence, is_brief=True, tone="strong"),
        )
        for item in reversed(models.components)
    ]
    return Section("report", "Latency models", _present(*sections))


def _settings(caption: str, values: Mapping[str, Any], missing: str) -> Table:
    """Every value below a mapping with the path of its names; `missing` stands for None."""
    rows = [(name, missing if value is None else str(value)) for name, value in _flat(values)]
    return Table(caption, pd.DataFrame(rows, columns=["name", "value"]), ["name", "value"])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value


def _present(*parts: Block | None) -> list[Block]:
    return [part for part in parts if part is not None]


def not_measured(failures: Sequence[str], prefix: str = "", is_brief: bool = False) -> Section | None:
    """What could not be measured."""
    return section(
        f"{prefix}failures",
        "What could not be measured",
        Points(failures, is_brief, mark="Could not be measured:"),
    )


def doubt_section(runs: Sequence[Findings], is_brief: bool = False) -> Section | None:
    """What makes the figures doubtful, or that nothing does."""
    several = len(runs) > 1
    doubts = [f"{f'{run.name}: ' if several else ''}{doubt.text}" for run in runs for doubt in run.doubts]
    unwatched = ", ".join(run.name for run in runs if not run.run.samples.rows)
    none = "Nothing that was watched makes these figures doubtful."
    if unwatched:
        none += f" Nothing was sampled beside {unwatched}: clocks, throttling and other load are not known."
    return section(
        "doubts",
        "What makes these figures doubtful",
        Points(doubts, is_brief, mark="Doubt:") if doubts else Paragraph(none),
        label="Doubts",
    )


# The answer that a report opens with: per domain and device, what to use and what it buys.

_TONES = {"trim": "good", "do_not_trim": "bad", "ambiguous": "unsure", "invalid": "bad"}


def cards(runs: Sequence[Findings], is_brief: bool = False) -> list[Card]:
    """One per domain of every run."""
    return [_card(run, answer, is_brief) for run in runs for answer in run.answers]


def export_command(run: Findings, domain: str) -> str:
    """What writes the vocabulary and the trimmed draft."""
    return f'make export ARGS="run={run.run_name} export.domain={domain}"'


def _card(run: Findings, answer: Answer, is_brief: bool) -> Card:
    kind = answer.decision.value
    rows = [
        [_named(_over(figure, answer), figure, answer), *_gain(gain)] for figure, gain in answer.gains.items()
    ]
    speeds = (answer.predicted_tokens_per_s, answer.tokens_per_s)
    tokens_per_s = (format_value("tokens_per_s", speed) for speed in speeds)
    rows.append([_named("tokens/s", SPEED, answer), *tokens_per_s])
    energy = format_value("energy_j_per_token", answer.energy.j_per_token, with_unit=True)
    return Card(
        title=answer.domain,
        place=run.label,
        badge=kind.replace("_", " "),
        tone=_TONES[kind],
        headline=answer.headline(),
        sentence=answer.sentence(),
        gains=Grid(["", "estimate", "decoded"], rows, [False, True, True]),
        note=" ".join(note for note in (answer.at_speed, answer.beside, answer.why_apart) if note),
        facts=[
            ("held-out coverage", format_value("coverage_heldout", answer.coverage)),
            ("energy per token", energy or "not known"),
            ("prompts", _prompts(answer)),
        ],
        command="" if kind == "invalid" else export_command(run, answer.domain),
        details=answer.details(),
        is_brief=is_brief,
    )


def _over(figure: str, answer: Answer) -> str:
    if figure == OVER_FULL_BEST and answer.full_best is not None:
        return f"over it with gamma = {answer.full_best.draft_length}"
    return "over plain decoding" if figure == OVER_PLAIN else "over the full-vocabulary draft"


def _prompts(answer: Answer) -> str:
    if answer.num_prompts == answer.num_replayed:
        return str(answer.num_prompts)
    if answer.num_prompts == answer.num_probed:
        return f"{answer.num_replayed} replayed, {answer.num_prompts} probed and decoded"
    return f"{answer.num_replayed} replayed, {answer.num_probed} probed, {answer.num_prompts} decoded"


def _named(name: str, figure: str, answer: Answer) -> str:
    return name if answer.is_valid(figure) else f"{name} (INVALID)"


def _gain(gain: Gain) -> tuple[str, str]:
    decoded = "" if gain.decoded is None else format_estimate("speedup_vs_full", gain.decoded)
    return format_estimate("speedup_vs_full", gain.estimate), decoded


_ANSWERS = (
    "domain", "device", "verdict", "vocab_size", "draft_length", "tokens_per_s", "speedup_vs_full",
    "speedup_vs_full_best", "speedup_vs_plain", "coverage_heldout", "energy_j_per_token", "num_prompts",
    "invalid_because",
)  # fmt: skip


def answer_table(runs: Sequence[Findings]) -> Table:
    """All answers as one table, to be sorted."""
    caption = (
        "What to use on every device: the optimum as it was decoded; 95% bootstrap intervals over prompts, "
        "resampled as pairs. x full: with the same draft length; x full best: with the full vocabulary's "
        "own, where that is significantly faster for it. A dash: there is nothing to compare, or it is not "
        "known."
    )
    headings = {
        "speedup_vs_full": "x full",
        "speedup_vs_full_best": "x full best",
        "coverage_heldout": "coverage",
        "energy_j_per_token": "J/token",
    }
    return Table(caption, pd.concat([run.answer_table for run in runs]), _ANSWERS, headings=headings)
