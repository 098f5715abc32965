"""The answer in words: which vocabulary size and draft length to use, and what it buys."""

from dataclasses import dataclass

from bench.measure.stats import Estimate
from bench.report.frames import Key, Run, decode_series, speedup


@dataclass(frozen=True)
class Verdict:
    """The best trimmed variant of one domain against its two baselines.

    Attributes:
        domain: the domain.
        vocab_size: k of the fastest trimmed variant.
        draft_length: its gamma.
        full_draft_length: gamma of the fastest full-vocabulary variant.
        share_removed: share of the draft's tokens that k leaves out.
        over_full: its throughput over that of the fastest full-vocabulary variant.
        over_plain: its throughput over plain decoding.
    """

    domain: str
    vocab_size: int
    draft_length: int
    full_draft_length: int
    share_removed: float
    over_full: Estimate
    over_plain: Estimate

    @property
    def is_faster(self) -> bool:
        """Whether trimming is faster beyond doubt."""
        return self.over_full.ci_low > 1

    def sentence(self) -> str:
        """One sentence a reader can act on."""
        size = f"{self.vocab_size:,} tokens ({self.share_removed:.1%} fewer), gamma = {self.draft_length}"
        full, plain = _with_interval(self.over_full), _with_interval(self.over_plain)
        if self.is_faster:
            advice = f"trim to {size}: {full} as fast as the full-vocabulary draft"
        elif self.over_full.ci_high < 1:
            advice = f"do not trim: the best trimmed draft, {size}, is {full} as fast as the full vocabulary"
        else:
            advice = f"ambiguous: the best trimmed draft, {size}, is {full} as fast as the full vocabulary"
        worth = "" if self.over_plain.ci_low > 1 else " - speculation itself is not a clear gain here"
        return f"{self.domain}: {advice}, {plain} as fast as plain decoding{worth}."


def verdicts(run: Run) -> list[Verdict]:
    """One per domain that was measured with a trimmed vocabulary."""
    found = [_verdict(run, domain) for domain in run.decodes]
    return [verdict for verdict in found if verdict]


def _verdict(run: Run, domain: str) -> Verdict | None:
    drafts = [key for key in run.decodes[domain] if key[1] > 0]
    trimmed = [key for key in drafts if key[0] < run.full_size]
    full = [key for key in drafts if key[0] == run.full_size]
    if not trimmed or not full:
        return None
    best, best_full = (max(keys, key=lambda k: _throughput(run, domain, k)) for keys in (trimmed, full))
    over_full = speedup(run, domain, best, best_full)
    over_plain = speedup(run, domain, best, (run.full_size, 0))
    if over_full is None or over_plain is None:
        return None
    return Verdict(domain, *best, best_full[1], 1 - best[0] / run.full_size, over_full, over_plain)


def _throughput(run: Run, domain: str, key: Key) -> float:
    tokens, times = decode_series(run.decodes[domain][key])
    return float(tokens.sum() / times.sum()) if times.sum() else 0.0


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.2f}x [{estimate.ci_low:.2f}, {estimate.ci_high:.2f}]"
