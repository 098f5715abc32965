"""What the decodes of a run should come to: rounds from the replay, their time from the probes among them.

In a short dtype a decode may write another text than plain decoding, as rounding depends on how many tokens
are verified at once. Nobody replayed that text. The replay says the rounds as far as the texts are the same;
from there on they are counted as the decode made them, and only their time is predicted.
"""

from dataclasses import dataclass

import numpy as np

from bench.acceptance import Intervals
from bench.analysis.run import Replay, Run
from bench.records import DecodeRecord
from bench.surface.latency import RoundLatency
from bench.surface.predict import Speed, speed_of
from bench.variant import Variant
from bench.vocab.draft_vocab import Floats


@dataclass(frozen=True)
class Expected:
    """Of one variant's decodes of one domain.

    Attributes:
        speed: of the texts that were decoded; of sampled decodes, of those that were replayed.
        num_rounds: target passes in it.
        replayed_frac: share of the decoded tokens whose rounds the replay says; None where texts are sampled.
        as_replayed: speed of the texts that were replayed.
        mean_acceptance_length: of the texts that were replayed.
    """

    speed: Speed
    num_rounds: float
    replayed_frac: float | None
    as_replayed: Speed
    mean_acceptance_length: float


def replayed_prompts(run: Run, domain: str) -> list[str]:
    """Prompts that were decoded and whose replayed answers go on after their first token."""
    replays = run.replays[domain][run.plans[domain].source]
    return [prompt for prompt in run.prompts[domain] if len(replays[prompt].token_ids) > 1]


def expected_of(run: Run, domain: str, latency: RoundLatency, variant: Variant) -> Expected:
    """What a variant's decodes should come to.

    Args:
        run: the run.
        domain: of the run's.
        latency: by the probes among the decodes.
        variant: one with a draft.
    """
    replays = run.replays[domain][run.plans[domain].source]
    prompts, size = replayed_prompts(run, domain), np.array([variant.vocab_size])
    decodes = [run.decodes[domain][variant][prompt] for prompt in prompts]
    replayed = [replays[prompt] for prompt in prompts]
    steps = [item.replayed().walk(variant.draft_length).at(size) for item in replayed]
    tokens = np.array([len(item.token_ids) - 1 for item in replayed], dtype=np.float64)
    rounds = np.array([num_rounds[0] for num_rounds, _ in steps])
    length = 1 + sum(float(by_position.sum()) for _, by_position in steps) / float(rounds.sum())
    as_replayed, frac = speed_of(tokens, rounds, latency, variant), None
    speed = as_replayed
    if not run.is_sampled:
        found = [_rounds(*pair, variant) for pair in zip(decodes, replayed, strict=True)]
        rounds, shared = (np.array(column) for column in zip(*found, strict=True))
        tokens = np.array([len(record.token_ids) - 1 for record in decodes], dtype=np.float64)
        speed, frac = speed_of(tokens, rounds, latency, variant), float(shared.sum() / tokens.sum())
    return Expected(speed, float(rounds.sum()), frac, as_replayed, length)


def _rounds(decoded: DecodeRecord, replay: Replay, variant: Variant) -> tuple[float, int]:
    """Rounds that a decode should take, and how many of its tokens after the first the replay says."""
    replayed = replay.replayed()
    assert isinstance(replayed, Intervals)
    same = np.cumprod([a == b for a, b in zip(decoded.token_ids, replay.token_ids, strict=False)])
    ends = _ends(decoded.accepted, len(decoded.token_ids))
    num_same = len(ends) if same.sum() == len(decoded.token_ids) else int((ends < same.sum()).sum())
    last = [0, *ends[:-1], len(decoded.token_ids) - 1][num_same]
    of_replay = _ends(replayed.accepted_by_round(variant), replayed.num_tokens)
    # Where the draft's own rounding moved a round, the replay is in the middle of one.
    until_last = np.interp(last, [0, *of_replay], np.arange(len(of_replay) + 1))
    return float(until_last) + len(ends) - num_same, int(last)


def _ends(accepted: list[int], num_tokens: int) -> Floats:
    """Tokens after the first that are there at the end of each round; what a last round has beyond is cut."""
    return np.minimum(np.cumsum(np.array(accepted) + 1.0), num_tokens - 1)
