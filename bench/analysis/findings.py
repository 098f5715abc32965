"""Everything that a report says of one run, computed once: numbers, doubts and advice; draws nothing.

A new figure or table of a run starts with a property here.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from bench.analysis.doubts import Doubt, doubts
from bench.analysis.engine_parts import parts_facts, parts_frame
from bench.analysis.engines import engine_facts, round_frame, served_frame
from bench.analysis.facts import baseline_facts, domain_facts, failure_fact, origin
from bench.analysis.figures import ALL
from bench.analysis.fit import judge_draft, judge_run
from bench.analysis.hardware import draft_shape_of
from bench.analysis.latency import latency_frame, parts_by_setting, step_parts
from bench.analysis.latency_models import LatencyFindings, choice_facts
from bench.analysis.metrics import format_value, format_variant, impossible_values
from bench.analysis.parallel import in_parallel
from bench.analysis.run import COLD, EAGER, DraftRun, Run, cache_frame, step_frame
from bench.analysis.summary import coverage_curves, size_frame, summary_frame
from bench.analysis.surfaces import Advice, Surfaces, cross_frame, position_frame
from bench.analysis.telemetry import SampledSeries, measured_spans, sampled_series
from bench.analysis.verdict import Answer, answer_frame, answers_of, with_verdicts
from bench.errors import FitError
from bench.fit.series import DTYPE_BYTES
from bench.surface.predict import Surface


@dataclass(frozen=True)
class Findings:
    """What one run says.

    Attributes:
        label: of its device; runs that share it were measured on equal hardware and never the same domain of
            the same case, so that they stand side by side as one device.
        run: what was measured.
        run_name: what `run=` takes for it.
    """

    label: str
    run: Run
    run_name: str

    @classmethod
    def of(cls, run: Run, run_name: str | None = None) -> "Findings":
        """Of a run that stands alone."""
        return cls(str(run.environment["device_name"]), run, run_name or run.folder.name)

    @property
    def name(self) -> str:
        """Label and run id, for sentences about this run alone."""
        return f"{self.label} [{self.run.folder.name}]"

    @property
    def domains(self) -> list[str]:
        """In the order of their measurement."""
        return list(self.run.decodes)

    @cached_property
    def surfaces(self) -> Surfaces:
        """Predictions of the whole run."""
        return Surfaces(self.run)

    def surface(self, domain: str) -> Surface:
        """Predicted speed of every (k, gamma) under the ranking that the domain's vocabularies follow."""
        return self.surfaces.of(domain)

    def advice(self, domain: str) -> Advice:
        """What that surface says in numbers."""
        return self.surfaces.advice(domain)

    # Tables.

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row for everything that was decoded, with the verdict of its domain."""
        return with_verdicts(self._decoded, self.answers)

    @cached_property
    def _decoded(self) -> pd.DataFrame:
        return summary_frame(self.surfaces)

    @cached_property
    def latency(self) -> pd.DataFrame:
        """Every part of a round, inside rounds and on its own."""
        return latency_frame(self.run)

    @cached_property
    def cross(self) -> pd.DataFrame:
        """Each domain under the vocabulary that suits each source."""
        return cross_frame(self.surfaces)

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """Coverage, acceptance and predicted speed of the probed sizes."""
        return pd.concat([size_frame(self.surfaces, domain) for domain in self.domains])

    @cached_property
    def coverage(self) -> pd.DataFrame:
        """What every size covers of each domain's answers."""
        return pd.concat([coverage_curves(self.run, domain) for domain in self.domains])

    @cached_property
    def positions(self) -> pd.DataFrame:
        """Acceptance by draft position, with the full, the best and the paper's vocabulary."""
        return pd.concat([position_frame(self.surfaces, domain) for domain in self.domains])

    @cached_property
    def step_parts(self) -> pd.DataFrame:
        """Where the time of a chained draft step goes, by domain and size."""
        return step_parts(self.latency)

    @cached_property
    def parts_by_setting(self) -> pd.DataFrame:
        """LM head and verification inside rounds and on their own."""
        return parts_by_setting(self.latency)

    @cached_property
    def kept_across(self) -> pd.DataFrame:
        """The cross-domain table with the share of the mean acceptance length that is kept, as `kept`."""
        kept = self.cross["mean_acceptance_length"] / self.cross["full_mean_acceptance_length"]
        return self.cross.assign(kept=kept)

    @cached_property
    def served(self) -> pd.DataFrame:
        """What was decoded in another engine; empty where nothing was."""
        return served_frame(self.run)

    @cached_property
    def engine_rounds(self) -> pd.DataFrame:
        """What a round takes in each engine; empty without another engine."""
        return round_frame(self.run)

    @cached_property
    def engine_parts(self) -> pd.DataFrame:
        """What a round consists of in each engine; empty where no other engine says it."""
        return parts_frame(self.run)

    def engine_facts(self, domain: str) -> list[str]:
        """What another engine says of a domain."""
        return engine_facts(self.served, self.engine_rounds, domain)

    def part_facts(self, domain: str) -> list[str]:
        """Why the engines gain differently on a domain."""
        return parts_facts(self.run, self.engine_parts, domain)

    @cached_property
    def latency_models(self) -> LatencyFindings | None:
        """Judged; None for a run of an earlier version, which does not say what to judge by."""
        try:
            return LatencyFindings.of(judge_run(self.surfaces))
        except FitError:
            return None

    def tables(self) -> dict[str, pd.DataFrame]:
        """What is written as files, by name."""
        found = {
            "summary": self.summary,
            "latency": self.latency,
            "cross_domain": self.cross,
            "sizes": self.sizes,
        }
        if self.run.served:
            found |= {"engines": self.served, "engine_rounds": self.engine_rounds}
            found |= {"engine_parts": self.engine_parts} if len(self.engine_parts) else {}
        for component in self.latency_models.components if self.latency_models else ():
            found[f"fit_{component.name}"] = component.models
            found[f"fit_{component.name}_sizes"] = component.sizes.drop(
                columns="reduction_best", errors="ignore"
            )
            if len(component.decisions):
                found[f"fit_{component.name}_decisions"] = component.decisions
        return found

    # What was sampled beside it.

    @cached_property
    def sampled(self) -> list[SampledSeries]:
        """Series over the time of the run."""
        return sampled_series(self.run)

    @cached_property
    def spans(self) -> dict[str, tuple[float, float]]:
        """When every domain was decoded, in s."""
        return measured_spans(self.run)

    # Words.

    @cached_property
    def answers(self) -> list[Answer]:
        """One per domain."""
        return answers_of(self.surfaces, self._decoded)

    @property
    def invalid(self) -> list[str]:
        """Domains with a headline that is INVALID."""
        return [answer.domain for answer in self.answers if answer.invalid]

    @property
    def answer_table(self) -> pd.DataFrame:
        """The answers as rows."""
        return answer_frame(self.label, self.answers)

    @cached_property
    def doubts(self) -> list[Doubt]:
        """What makes the figures doubtful."""
        return [*doubts(self.run), *_impossible({"summary": self.summary, "latency": self.latency})]

    @property
    def origin(self) -> str:
        """What the run was measured with."""
        return origin(self.run)

    @property
    def failures(self) -> list[str]:
        """What could not be measured."""
        return [failure_fact(failure) for failure in self.run.failures]

    def facts(self, domain: str) -> list[str]:
        """How a domain was ranked, replayed, predicted and held against its baselines."""
        return domain_facts(self.run, self.summary, domain)

    @property
    def baselines(self) -> list[str]:
        """The plain loop against `transformers.generate`."""
        return [f"{domain}: {fact[:1].lower()}{fact[1:]}" for domain, fact in baseline_facts(self.run)]

    @property
    def across(self) -> str:
        """The worst that a vocabulary chosen on one domain does to another, in a sentence."""
        table = self.cross[self.cross["source"] != self.cross["domain"]]
        if table.empty:
            return ""
        worst = table.sort_values("predicted_speedup_vs_full_vocab").iloc[0]
        gain = format_value("speedup_vs_full", worst["predicted_speedup_vs_full_vocab"], with_unit=True)
        variant = format_variant(worst["vocab_size"], worst["draft_length"])
        return (
            f"At worst, {worst['domain']} under the vocabulary chosen on {worst['source']} "
            f"({variant}) is predicted to run at {gain} the speed of the full vocabulary."
        )

    @property
    def prediction_errors(self) -> dict[str, float]:
        """Mean absolute error of predicted tokens/s by domain."""
        drafts = self.summary[self.summary["draft_length"] > 0]
        errors = drafts["prediction_error"].abs().groupby(drafts["domain"]).mean()
        return {domain: float(errors[domain]) for domain in self.domains}

    @property
    def sample_sizes(self) -> str:
        """Prompts that were decoded, as captions say them."""
        return _sample_sizes({domain: len(prompts) for domain, prompts in self.run.prompts.items()})

    @property
    def probed_sample_sizes(self) -> str:
        """Prompts that latency was probed on, as captions say them."""
        return _sample_sizes({domain: self.run.num_probed(domain) for domain in self.domains})

    @property
    def replayed_sample_sizes(self) -> str:
        """Prompts that were replayed, as captions say them."""
        return _sample_sizes({d: len(self.surface(d).prompt_left_out) for d in self.domains})


def _sample_sizes(counts: dict[str, int]) -> str:
    if len(set(counts.values())) == 1:
        each = " in each domain" if len(counts) > 1 else ""
        return f"n = {next(iter(counts.values()))} prompts{each}"
    return f"n = {', '.join(f'{domain}: {count} prompts' for domain, count in counts.items())}"


def predict_all(found: list[Findings]) -> None:
    """Computes the surfaces of all runs, several at a time."""
    missing = [(item.surfaces, domain) for item in found for domain in item.domains]
    calls = [partial(surfaces.of, domain) for surfaces, domain in missing]
    for (surfaces, domain), surface in zip(missing, in_parallel(calls), strict=True):
        surfaces.keep(domain, surface)


def _impossible(tables: dict[str, pd.DataFrame]) -> list[Doubt]:
    return [
        Doubt("impossible_value", f"the table {name} says what cannot be: {text}", "report it as a bug", ALL)
        for name, table in tables.items()
        for text in impossible_values(table)
    ]


# A draft that was measured alone.


@dataclass(frozen=True)
class DraftFindings:
    """What a run of `task=draft` says.

    Attributes:
        draft: what was measured.
        folder: of the run.
    """

    draft: DraftRun
    folder: Path

    @classmethod
    def of(cls, draft: DraftRun) -> "DraftFindings":
        """Of a run that was read back."""
        return cls(draft, draft.run.folder)

    @property
    def run(self) -> Run:
        """The run, with latencies and nothing that needs a target."""
        return self.draft.run

    @cached_property
    def steps(self) -> pd.DataFrame:
        """A step and its parts by size."""
        return step_frame(self.draft)

    @cached_property
    def caches(self) -> pd.DataFrame:
        """LM head and draft step, cold and warm."""
        return cache_frame(self.draft)

    @cached_property
    def latency(self) -> pd.DataFrame:
        """Every part on its own."""
        return latency_frame(self.run)

    @cached_property
    def latency_models(self) -> LatencyFindings:
        """Judged.

        Raises:
            FitError: the run does not say the shape of its draft.
        """
        return LatencyFindings.of(judge_draft(self.draft))

    @cached_property
    def sampled(self) -> list[SampledSeries]:
        """Series over the time of the run."""
        return sampled_series(self.run)

    @property
    def spans(self) -> dict[str, tuple[float, float]]:
        """None: there are no domains."""
        return {}

    @cached_property
    def doubts(self) -> list[Doubt]:
        """What makes the figures doubtful."""
        return [*doubts(self.run), *_impossible({"latency": self.latency})]

    @property
    def failures(self) -> list[str]:
        """What could not be measured."""
        return [failure_fact(failure) for failure in self.run.failures]

    @property
    def origin(self) -> str:
        """What the run was measured with."""
        return f"{self.run.config['draft']['context_length']} positions held; {origin(self.run)}"

    @cached_property
    def facts(self) -> list[str]:
        """What the measured times say, in sentences."""
        steps, environment = self.steps, self.run.environment
        smallest, full = steps.iloc[0], steps.iloc[-1]
        parts = steps[["layer_ms", "lm_head_ms", "select_ms"]].sum(axis=1)
        gap = float((parts / steps["draft_step_ms"] - 1).median())
        full_ms, smallest_ms = (
            format_value("draft_step_ms", row["draft_step_ms"]) for row in (full, smallest)
        )
        found = [
            f"With all {full['vocab_size']:,.0f} tokens a draft step takes {full_ms} ms, "
            f"{full['lm_head_share']:.0%} of it in the LM head; with {smallest['vocab_size']:,.0f} it takes "
            f"{smallest_ms} ms, {smallest['saving']:.0%} less.",
            f"The parts on their own add up to {1 + gap:.1%} of the whole step (median over sizes); layers "
            f"through the {environment['draft_runner']} runner.",
        ]
        if environment.get("has_tied_head"):
            found.append(self._copies())
        found += choice_facts(self.latency_models.judgement)
        if self.draft.execution != EAGER:
            found.append(f"Every part was executed as {self.draft.execution}, not eagerly.")
        if self.draft.setting != COLD:
            found.append("The device does not say how large its cache is: all times are with a warm cache.")
        return found

    def _copies(self) -> str:
        """With tied embeddings a trimmed head needs memory beside the embedding, which stays whole."""
        shape = draft_shape_of(self.run)
        assert shape is not None
        row_bytes = shape.hidden_size * DTYPE_BYTES[self.run.environment["dtype"]]
        return (
            f"Head and embedding are tied, so a trimmed head is a copy beside the whole embedding of "
            f"{shape.vocab_size * row_bytes / 1e6:,.0f} MB: {1000 * row_bytes / 1e6:.2g} MB more for every "
            "thousand tokens that it keeps."
        )
