"""The answer in words: which vocabulary size and draft length to use, and what it buys."""

from dataclasses import dataclass
from enum import Enum

from bench.measure.stats import Estimate
from bench.report.frames import Key, speedup
from bench.report.surfaces import Advice, Surfaces, baseline_keys
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
