"""The answer per domain, in numbers and words: which vocabulary size and draft length, and what they buy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pandas as pd

from bench.analysis.conditions import Condition, conditions_of, limits_of
from bench.analysis.figures import ALL, OVER_FULL, OVER_FULL_BEST, OVER_PLAIN, Gain
from bench.analysis.metrics import estimate_columns, format_estimate, format_value, format_variant
from bench.analysis.run import speedup
from bench.analysis.summary import held_out_tokens
from bench.analysis.surfaces import (
    Advice,
    Half,
    Surfaces,
    baselines,
    measured_tokens_per_s,
)
from bench.analysis.telemetry import TokenEnergy, token_energy
from bench.stats.estimates import Estimate
from bench.surface.choice import FULL_BEST, cross_fitted_gain
from bench.surface.pace import LEAST_STRETCHES, Pace
from bench.surface.predict import NEGLIGIBLE
from bench.variant import Variant


class Decision(Enum):
    """What the measured interval over the full-vocabulary draft says; invalid: nothing."""

    trim = "trim"
    do_not_trim = "do_not_trim"
    ambiguous = "ambiguous"
    invalid = "invalid"


@dataclass(frozen=True)
class Answer:
    """The predicted optimum of one domain, as it was decoded, against its two baselines.

    Attributes:
        domain: the domain.
        best: the optimum.
        full_size: k of the untrimmed draft.
        over_full: over the full-vocabulary draft at the same draft length, so that nothing but the vocabulary
            differs; None where the optimum is the full vocabulary itself.
        full_best: the full vocabulary at its own draft length, where that is surely faster for it; else None.
        over_full_best: over that; None where there is none, or where the optimum is that itself.
        over_plain: over plain decoding.
        tokens_per_s: measured.
        predicted_tokens_per_s: of the same draft.
        coverage: share of the held-out answers inside its vocabulary.
        energy: per token.
        num_prompts: that were decoded.
        num_replayed: whose acceptance is behind the estimates.
        num_probed: whose latency is.
        advice: what the surface says beside it.
        at_speed: at which pace of the machine the estimates hold; empty where heads have no time.
        beside: what was predicted of the decodes, on their own prompts, where the estimate has more prompts.
        why_apart: where decoding and prediction differ, by how much and through what; empty where they agree.
        conditions: that it was measured under.
    """

    domain: str
    best: Variant
    full_size: int
    over_full: Gain | None
    full_best: Variant | None
    over_full_best: Gain | None
    over_plain: Gain
    tokens_per_s: float
    predicted_tokens_per_s: float
    coverage: float
    energy: TokenEnergy
    num_prompts: int
    num_replayed: int
    num_probed: int
    advice: Advice
    at_speed: str
    beside: str
    why_apart: str
    conditions: list[Condition]

    def past_limits(self, *figures: str) -> list[Condition]:
        """Conditions past their limit that touch one of these figures."""
        return [item for item in self.conditions if item.is_exceeded and set(figures) & set(item.touches)]

    def is_valid(self, figure: str) -> bool:
        """Whether every condition that touches a figure is within its limit."""
        return not self.past_limits(figure)

    @property
    def invalid(self) -> list[str]:
        """Why headlines are INVALID, in words; empty where they stand."""
        return [item.reason for item in self.past_limits(OVER_FULL, OVER_FULL_BEST, OVER_PLAIN)]

    @property
    def gains(self) -> dict[str, Gain]:
        """Those that there are, by figure."""
        every = {
            OVER_FULL: self.over_full,
            OVER_FULL_BEST: self.over_full_best,
            OVER_PLAIN: self.over_plain,
        }
        return {figure: gain for figure, gain in every.items() if gain is not None}

    @property
    def decision(self) -> Decision:
        """Whether to trim: it must be faster than the full vocabulary at any draft length."""
        if self.past_limits(OVER_FULL, OVER_FULL_BEST):
            return Decision.invalid
        gains = [gain for gain in (self.over_full, self.over_full_best) if gain is not None]
        if self.over_full is None or any(gain.estimate.ci_high < 1 for gain in gains):
            return Decision.do_not_trim
        return Decision.trim if all(gain.least > 1 for gain in gains) else Decision.ambiguous

    @property
    def removed(self) -> float:
        """Share of the draft's vocabulary that is cut."""
        return 1 - self.best.vocab_size / self.full_size

    def headline(self) -> str:
        """What to do, without the gains."""
        what = self._what
        if self.decision is Decision.invalid:
            return f"INVALID: {'; '.join(c.reason for c in self.past_limits(OVER_FULL, OVER_FULL_BEST))}."
        if self.over_full is None:
            text = f"Do not trim: the full vocabulary is fastest, with gamma = {self.best.draft_length}."
        else:
            text = {
                Decision.trim: f"Trim to {what}.",
                Decision.do_not_trim: f"Do not trim: the best trimmed draft, {what}, is slower.",
                Decision.ambiguous: f"Ambiguous: the best trimmed draft, {what}, may be faster or slower.",
            }[self.decision]
        return f"{text}{self._worth(' Speculation itself is not a clear gain here.')}"

    def sentence(self) -> str:
        """What to do and what it buys, in one sentence."""
        what = self._what
        if self.decision is Decision.invalid:
            return f"{self.domain}: {self.headline()}"
        if self.over_full is None:
            advice = f"do not trim: the full vocabulary is fastest, with gamma = {self.best.draft_length}"
        else:
            gain = format_estimate("speedup_vs_full", self.over_full.estimate)
            full = f"{gain} as fast as the full-vocabulary draft{self._at_its_best}"
            advice = {
                Decision.trim: f"trim to {what}: {full}",
                Decision.do_not_trim: f"do not trim: the best trimmed draft, {what}, is {full}",
                Decision.ambiguous: f"ambiguous: the best trimmed draft, {what}, is {full}",
            }[self.decision]
        if past := self.past_limits(OVER_PLAIN):
            why = "; ".join(item.reason for item in past)
            return f"{self.domain}: {advice}. The speed over plain decoding is INVALID: {why}."
        plain = format_estimate("speedup_vs_plain", self.over_plain.estimate)
        worth = self._worth(" - speculation itself is not a clear gain here")
        return f"{self.domain}: {advice}, {plain} as fast as plain decoding{worth}."

    @property
    def _at_its_best(self) -> str:
        """The other full-vocabulary draft, behind the one with the same draft length."""
        if self.full_best is None or self.over_full_best is None:
            return ""
        gain = format_estimate("speedup_vs_full", self.over_full_best.estimate)
        return f" with the same gamma, {gain} as it is with its best, gamma = {self.full_best.draft_length}"

    @property
    def _what(self) -> str:
        size, gamma = self.best.vocab_size, self.best.draft_length
        return f"{size:,} tokens ({self.removed:.1%} fewer), gamma = {gamma}"

    def _worth(self, doubt: str) -> str:
        """What to add where speculation may be no gain; nothing is said of what is not known."""
        if not self.is_valid(OVER_PLAIN):
            return ""
        return "" if self.over_plain.estimate.ci_low > 1 else doubt

    def _fastest(self) -> str:
        """What is predicted to be faster with another draft length, and why it is not advised."""
        surface, best = self.advice.surface, self.best
        fastest = surface.fastest
        if fastest.draft_length == best.draft_length:
            return ""
        slower = _slower(1 - surface.at(best) / surface.at(fastest))
        there = f"k = {fastest.vocab_size:,} with gamma = {fastest.draft_length}"
        return (
            f" gamma = {best.draft_length} is predicted {slower} than {there}, no more than two draft "
            "lengths are known to."
        )

    def _judged_apart(self) -> list[str]:
        gain = self.over_full
        if gain is None or gain.judged_apart is None:
            return []
        apart = format_estimate("speedup_vs_full", gain.judged_apart)
        luck = gain.estimate.value / gain.judged_apart.value - 1
        return [
            f"What half of the prompts and probes choose is {apart} as fast as the full-vocabulary draft on "
            f"the other half; the estimate, which chose and judged on all, differs by {luck:+.1%}."
        ]

    def _baselines(self) -> list[str]:
        """Other choices of tokens beside the advised one."""
        return [
            f"{found.name}, k = {found.variant.vocab_size:,} with gamma = {found.variant.draft_length}, are "
            f"predicted {found.over_full:.2f}x as fast as the full vocabulary. The advised draft is "
            f"{format_estimate('speedup_vs_full', found.advised_over_it)} as fast as they."
            for found in self.advice.baselines
        ]

    def details(self) -> list[str]:
        """What else there is to know before acting on it."""
        if self.decision is Decision.invalid:
            return [
                f"The advised draft had {self._what}; its figures are shown to find what went wrong, and "
                "nothing follows from them.",
                energy_fact(self.energy),
            ]
        advice, paper = self.advice, self.advice.paper
        low, high = advice.confident_sizes
        even, fastest = advice.break_even, self._fastest()
        now = format_variant(advice.best.vocab_size, advice.best.draft_length)
        head = "" if even.head_ratio is None else f", and the head {even.head_ratio:.1%} of its own"
        return [
            f"Any size from {low:,} to {high:,} tokens is as good with gamma = {self.best.draft_length}: not "
            f"significantly more than {NEGLIGIBLE:.0%} slower than the fastest with it.{fastest}",
            *self._judged_apart(),
            f"Down to {advice.lossless:,} tokens the draft needs no more target passes than with the full "
            f"vocabulary (gamma = {advice.best.draft_length}, on these prompts).",
            f"The paper's utility chooses k* = {paper.vocab_size:,}; with its best gamma, "
            f"{paper.draft_length}, it is predicted {_slower(advice.paper_regret)} than what is advised.",
            *self._baselines(),
            f"Break-even (arXiv 2605.10453): at {now} a round takes {even.round_ratio:.1%} of its time with "
            f"the full vocabulary{head}. Trimming pays as long as it keeps more than that share of the mean "
            f"acceptance length; it keeps {even.acceptance_ratio:.1%}.",
            energy_fact(self.energy),
        ]


def answers_of(surfaces: Surfaces, summary: pd.DataFrame) -> list[Answer]:
    """One per domain.

    Args:
        surfaces: of a run.
        summary: as `bench.analysis.summary.summary_frame`.
    """
    return [_answer(surfaces, summary, domain) for domain in surfaces.run.decodes]


def answer_frame(device: str, answers: list[Answer]) -> pd.DataFrame:
    """One row per answer of a device; what is not known, or has nothing to be compared with, is None."""
    rows: list[dict[str, object]] = [
        {
            "domain": answer.domain,
            "device": device,
            "verdict": answer.decision.value.replace("_", " "),
            **answer.best.columns,
            "tokens_per_s": answer.tokens_per_s,
            **estimate_columns("speedup_vs_full", _estimate(answer.over_full)),
            **estimate_columns("speedup_vs_full_best", _estimate(answer.over_full_best)),
            **estimate_columns("speedup_vs_plain", answer.over_plain.estimate),
            "coverage_heldout": answer.coverage,
            "energy_j_per_token": answer.energy.j_per_token,
            "num_prompts": answer.num_prompts,
            "invalid_because": "; ".join(answer.invalid) or None,
        }
        for answer in answers
    ]
    return pd.DataFrame(rows)


def _estimate(gain: Gain | None) -> Estimate | None:
    return None if gain is None else gain.estimate


def with_verdicts(summary: pd.DataFrame, answers: list[Answer]) -> pd.DataFrame:
    """The summary with the verdict of each domain: `verdict`, `invalid_figures` and `invalid_because`."""
    of_domain = {answer.domain: answer for answer in answers}
    found = [of_domain[domain] for domain in summary["domain"]]
    columns: dict[str, Any] = {
        "verdict": [answer.decision.value for answer in found],
        "invalid_figures": [" ".join(f for f in ALL if not answer.is_valid(f)) or None for answer in found],
        "invalid_because": ["; ".join(c.reason for c in a.past_limits(*ALL)) or None for a in found],
    }
    return summary.assign(**columns)


def _answer(surfaces: Surfaces, summary: pd.DataFrame, domain: str) -> Answer:
    run, surface = surfaces.run, surfaces.of(domain)
    plain, full, best = baselines(run, domain)
    measured, halves = measured_tokens_per_s(run, domain), surfaces.halves(domain)
    is_trimmed, full_best = best.vocab_size < run.full_size, run.planned_as(domain, FULL_BEST)
    over_full = _gain(surfaces, domain, best, full, halves) if is_trimmed else None
    over_full_best = _gain(surfaces, domain, best, full_best, halves) if is_trimmed and full_best else None
    over_plain = _gain(surfaces, domain, best, plain, halves)
    ranking = run.rankings[run.plans[domain].source]
    coverage = float(ranking.coverage_of(held_out_tokens(run, domain))[best.vocab_size - 1])
    gains = {OVER_FULL: over_full, OVER_FULL_BEST: over_full_best, OVER_PLAIN: over_plain}
    agree = all(gain.is_as_predicted for gain in gains.values() if gain)
    return Answer(
        domain=domain,
        best=best,
        full_size=run.full_size,
        over_full=over_full,
        full_best=full_best,
        over_full_best=over_full_best,
        over_plain=over_plain,
        tokens_per_s=measured[best],
        predicted_tokens_per_s=surface.at(best),
        coverage=coverage,
        energy=token_energy(run, domain, best),
        num_prompts=len(run.prompts[domain]),
        num_replayed=len(surface.prompt_left_out),
        num_probed=run.num_probed(domain),
        advice=surfaces.advice(domain),
        at_speed=_at_speed(surfaces, domain),
        beside=_of_decodes(surfaces, domain, best, gains),
        why_apart="" if agree else _why_apart(surfaces, summary, domain, best, full),
        conditions=conditions_of(run, domain, gains, limits_of(run)),
    )


def _gain(surfaces: Surfaces, domain: str, best: Variant, base: Variant, halves: Sequence[Half]) -> Gain:
    surface = surfaces.of(domain)
    judged_apart = None
    if halves:
        # The same draft length in both drafts where it is so in the estimate, whichever a half chooses.
        is_same = base.draft_length == best.draft_length
        chosen = [half.advised for half in halves]
        bases = [Variant(base.vocab_size, it.draft_length) if is_same else base for it in chosen]
        judges = [half.surface for half in reversed(halves)]
        judged_apart = cross_fitted_gain(list(zip(zip(chosen, bases, strict=True), judges, strict=True)))
    expected, of_base = (surfaces.expected_speed(domain, variant) for variant in (best, base))
    return Gain(
        surface.speed(best).over(surface.speed(base)),
        judged_apart,
        speedup(surfaces.run, domain, best, base),
        expected.over(of_base).value if expected and of_base else None,
    )


def _slower(share: float) -> str:
    return f"{abs(share):.1%} {'faster' if share < 0 else 'slower'}"


def _at_speed(surfaces: Surfaces, domain: str) -> str:
    """Whose speed the estimates are at, by the times of heads."""
    at, reference = surfaces.pace(domain), surfaces.reference
    if at is None:
        return ""
    met = surfaces.latency[domain].paces
    here = _heads(Pace.of(met.mean(axis=0)))
    least, most = (Pace.of(times).whole_head_ms for times in (met.min(axis=0), met.max(axis=0)))
    spread = f"on single prompts the whole one {least:.3g} to {most:.3g} ms"
    if reference is None or surfaces.latency[domain].reference is None:
        few = f", as fewer than {LEAST_STRETCHES} prompts were probed" if reference else ""
        return f"Estimates are at this run's own speed{few}: {here}; {spread}."
    wanted = _heads(Pace.read(reference))
    nearest = "" if _heads(at) == wanted else f" At the nearest that was met {_heads(at)}."
    there = f"Estimates are at the speed that run {reference['run']} had: {wanted}."
    return f"{there} Here {here}; {spread}.{nearest}"


def _heads(pace: Pace) -> str:
    small = "" if pace.small_heads_ms is None else f", small ones {pace.small_heads_ms:.2g} ms"
    return f"the whole head took {pace.whole_head_ms:.3g} ms{small}"


def _of_decodes(surfaces: Surfaces, domain: str, best: Variant, gains: Mapping[str, Gain | None]) -> str:
    """What was predicted of the decodes alone, which are of fewer prompts than the estimates."""
    num_decoded = len(surfaces.run.prompts[domain])
    num_replayed = len(surfaces.of(domain).prompt_left_out)
    if num_decoded == num_replayed:
        return ""
    names = {
        OVER_FULL: "the full-vocabulary draft",
        OVER_FULL_BEST: "that draft with its best gamma",
        OVER_PLAIN: "plain decoding",
    }
    parts = [
        f"{gain.expected:.2f}x over {names[name]}" for name, gain in gains.items() if gain and gain.expected
    ]
    speed = format_value("tokens_per_s", surfaces.expected(domain, best).speed.estimate.value)
    return (
        f"The estimate takes acceptance from {num_replayed} prompts; {num_decoded} of them were decoded. For "
        f"what these {num_decoded} decodes wrote it expects {', '.join(parts)} and {speed} tokens/s."
    )


def _why_apart(surfaces: Surfaces, summary: pd.DataFrame, domain: str, best: Variant, full: Variant) -> str:
    """How far off the predictions are, and how much of that is acceptance; the rest is latency."""
    rows, parts = summary[summary["domain"] == domain], []
    for variant, name in dict.fromkeys([(best, "this draft"), (full, "the full vocabulary")]):
        is_it = rows["vocab_size"] == variant.vocab_size
        row = rows[is_it & (rows["draft_length"] == variant.draft_length)].iloc[0]
        decodes = surfaces.run.decodes[domain][variant].values()
        num_rounds = sum(len(record.accepted) for record in decodes)
        accepted = num_rounds / surfaces.expected(domain, variant).num_rounds - 1
        parts.append(f"{row['prediction_error']:+.1%} for {name} ({accepted:+.1%} through acceptance)")
    return (
        f"Decoding and prediction differ: predicted tokens/s are off by {' and '.join(parts)}; the rest is "
        "latency."
    )


def energy_fact(energy: TokenEnergy) -> str:
    """Energy per token of the optimum, or why it is not known."""
    if energy.j_per_token is None:
        return f"Energy per token: not known ({energy.reason})."
    spread = "" if energy.spread is None else f", {energy.spread:.0%} apart in two windows"
    value = format_value("energy_j_per_token", energy.j_per_token, with_unit=True)
    return f"Energy per token of the optimum: {value} ({energy.method}{spread}; idle power included)."
