"""The answer in words: which vocabulary size and draft length to use, and what it buys."""

from dataclasses import dataclass
from enum import Enum

import pandas as pd

from bench.analysis.run import Key, Run, speedup
from bench.analysis.summary import token_energy
from bench.analysis.surfaces import Advice, Surfaces, baseline_keys
from bench.records import FailureRecord
from bench.stats.estimates import Estimate
from bench.surface.choice import OPTIMUM
from bench.surface.predict import NEGLIGIBLE


class Decision(Enum):
    """What the measured interval over the full-vocabulary draft says."""

    trim = "trim"
    do_not_trim = "do_not_trim"
    ambiguous = "ambiguous"


@dataclass(frozen=True)
class Verdict:
    """The predicted optimum of one domain, as it was decoded, against its two baselines.

    Attributes:
        domain: the domain.
        best: k and gamma of the optimum.
        full_size: k of the untrimmed draft.
        full_draft_length: gamma of the full-vocabulary draft that decoded fastest.
        over_full: measured throughput over that full-vocabulary draft; None where the optimum
            is the full vocabulary itself.
        over_plain: measured throughput over plain decoding.
        num_prompts: that both are measured on.
        advice: what the surface says beside it.
    """

    domain: str
    best: Key
    full_size: int
    full_draft_length: int
    over_full: Estimate | None
    over_plain: Estimate
    num_prompts: int
    advice: Advice

    @property
    def decision(self) -> Decision:
        """Whether to trim."""
        if self.over_full is None or self.over_full.ci_high < 1:
            return Decision.do_not_trim
        return Decision.trim if self.over_full.ci_low > 1 else Decision.ambiguous

    def sentence(self) -> str:
        """One sentence a reader can act on."""
        size, gamma = self.best
        removed = 1 - size / self.full_size
        what = f"{size:,} tokens ({removed:.1%} fewer), gamma = {gamma}"
        plain = with_interval(self.over_plain)
        if self.over_full is None:
            advice = f"do not trim: the full vocabulary is fastest, with gamma = {gamma}"
        else:
            full = f"{with_interval(self.over_full)} as fast as the full-vocabulary draft"
            advice = {
                Decision.trim: f"trim to {what}: {full}",
                Decision.do_not_trim: f"do not trim: the best trimmed draft, {what}, is {full}",
                Decision.ambiguous: f"ambiguous: the best trimmed draft, {what}, is {full}",
            }[self.decision]
        worth = "" if self.over_plain.ci_low > 1 else " - speculation itself is not a clear gain here"
        return f"{self.domain}: {advice}, {plain} as fast as plain decoding{worth}."

    def details(self) -> list[str]:
        """What else there is to know before acting on it."""
        advice, (paper_size, paper_gamma) = self.advice, self.advice.paper
        low, high = advice.confident_sizes
        sizes, gammas = advice.surface.best_intervals
        even = advice.break_even
        moved = advice.best != self.best
        now = f"k = {advice.best[0]:,}, gamma = {advice.best[1]}"
        return [
            *([f"With everything measured, the prediction's fastest is {now}."] if moved else []),
            f"The fastest is between k = {sizes[0]:,} and {sizes[1]:,}, gamma = {gammas[0]} and {gammas[1]} "
            "in 95% of bootstrap resamples of the prompts.",
            f"Any size from {low:,} to {high:,} tokens may be as good: with a fitting gamma it is not "
            f"significantly more than {NEGLIGIBLE:.0%} slower than the fastest.",
            f"Down to {advice.lossless:,} tokens the draft needs no more target passes than with the full "
            f"vocabulary (gamma = {advice.best[1]}, on these prompts).",
            f"The paper's utility would choose k* = {paper_size:,}; with its best gamma, {paper_gamma}, it "
            f"is predicted {advice.paper_regret:.1%} slower than the prediction's fastest.",
            f"Break-even (arXiv 2605.10453): at {now} the head takes {even.head_ratio:.1%} of its full "
            f"time, so trimming pays as long as it keeps {even.least_acceptance_ratio:.1%} of the mean "
            f"acceptance length; it keeps {even.acceptance_ratio:.1%}.",
        ]


def verdicts(surfaces: Surfaces) -> list[Verdict]:
    """One per domain."""
    return [_verdict(surfaces, domain) for domain in surfaces.run.decodes]


def _verdict(surfaces: Surfaces, domain: str) -> Verdict:
    run = surfaces.run
    plain, full, best = baseline_keys(run, domain)
    over_plain = speedup(run, domain, best, plain)
    assert over_plain is not None
    over_full = None if best[0] == run.full_size else speedup(run, domain, best, full)
    num_prompts = len(run.prompts[domain])
    advice = surfaces.advice(domain)
    return Verdict(domain, best, run.full_size, full[1], over_full, over_plain, num_prompts, advice)


def with_interval(estimate: Estimate) -> str:
    """A speedup with its interval, for readers."""
    return f"{estimate.value:.2f}x [{estimate.ci_low:.2f}, {estimate.ci_high:.2f}]"


# What there is to know about one domain of a run, in sentences, all of it from the records.


def domain_facts(run: Run, summary: pd.DataFrame, domain: str) -> list[str]:
    """How it was ranked, replayed, predicted and held against its baselines.

    Args:
        run: the run.
        summary: as `bench.report.summary.summary_frame`.
        domain: one of the run's.
    """
    source = run.plans[domain].source
    rows = summary[(summary["domain"] == domain) & (summary["draft_length"] > 0)]
    replays = [run.replays[domain][source][prompt] for prompt in run.prompts[domain]]
    errors, pass_ms = rows["prediction_error"].abs(), sum(r.replay_ms for r in replays) / len(replays)
    facts = [
        f"{len(replays)} held-out prompts. Ranked on {source}: {run.rankings[source].num_seen:,} distinct "
        "tokens in the target's own answers to ranking prompts; larger sizes are filled up with the lowest "
        "unseen ids.",
        f"Replay: {pass_ms:.0f} ms a prompt for all sizes and draft lengths; {_held(run, rows)}",
        f"Prediction: mean absolute error {errors.mean():.1%}, largest {errors.max():.1%}, over {len(rows)} "
        "decoded drafts.",
        energy_fact(run, domain),
    ]
    repeats = sum(r.num_repeats for r in run.probes[domain])
    repeats += sum(r.num_repeats for by_prompt in run.decodes[domain].values() for r in by_prompt.values())
    if repeats:
        facts.append(
            f"{repeats} measurements were held up by something else on the machine and taken again; let "
            "nothing run beside a measurement."
        )
    for baseline in run.baselines:
        if baseline.domain == domain:
            ratio = baseline.generate_ms / baseline.plain_ms
            facts.append(
                f"The plain loop is {ratio:.2f}x as fast as transformers.generate on the same weights "
                f"({baseline.num_tokens} tokens, prefill included)."
            )
    return facts


def energy_fact(run: Run, domain: str) -> str:
    """Energy per token of the optimum, or why it is not known."""
    energy = token_energy(run, domain, run.role_key(domain, OPTIMUM))
    if energy.j_per_token is None:
        return f"Energy per token: not known ({energy.reason})."
    spread = "" if energy.spread is None else f", {energy.spread:.0%} apart in two windows"
    return (
        f"Energy per token of the optimum: {energy.j_per_token:.3g} J ({energy.method}{spread}; idle power "
        "included)."
    )


def origin(run: Run) -> str:
    """What a run was measured with, and in how many sessions."""
    environment = run.environment
    text = (
        f"{environment['dtype']}; torch {environment['packages']['torch']}, transformers "
        f"{environment['packages']['transformers']}; started {environment['started_at']}; target through the "
        f"{environment['target_runner']} runner."
    )
    if run.num_sessions > 1:
        text += f" Measured in {run.num_sessions} sessions: the run was cut off and gone on with."
    return text


def failure_fact(failure: FailureRecord) -> str:
    """One case that could not be measured."""
    case = " ".join(str(part) for part in failure.case if part is not None)
    return f"{case}: {failure.error}: {failure.message}"


def _held(run: Run, rows: pd.DataFrame) -> str:
    """How far decoding bore the replay out."""
    gap = (rows["predicted_mean_acceptance_length"] - rows["mean_acceptance_length"]).abs().mean()
    if run.is_sampled:
        return (
            "answers are sampled, so that it tells what to expect: its mean acceptance lengths and those of "
            f"the decodes, which write other texts, differ by {gap:.2f} on average."
        )
    num_decodes = int(rows["num_prompts"].sum())
    num_other = num_decodes - round(float((rows["identical_output_frac"] * rows["num_prompts"]).sum()))
    if num_other:
        # Where one token differs, every round after it is another one.
        return (
            f"{num_other} of {num_decodes} decodes wrote another text than plain decoding, as rounding in "
            f"{run.environment['dtype']} depends on how many tokens are verified at once; mean acceptance "
            f"lengths as replayed and as decoded differ by {gap:.2f} on average."
        )
    return (
        f"{int(rows['replay_deviating_rounds'].sum())} of the decodes' rounds accepted another number of "
        "tokens than replayed."
    )
