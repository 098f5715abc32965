"""A synthetic run with hand-chosen timings: every figure of a report can be computed in the head."""

from collections.abc import Iterator
from pathlib import Path

from bench.records import (
    BaselineRecord,
    DecodeRecord,
    IsolatedRecord,
    PlanRecord,
    ProbeRecord,
    RankingRecord,
    Record,
    ReplayRecord,
)
from tests.synthetic_run import write_run_folder

FULL = 100
PROMPTS = ("p1", "p2")
ANSWER = [10, 11, 12, 13, 14, 15, 16, 17, 1]  # nine tokens, eight after the first
SEEN = [1, 10, 11, 12, 13, 14, 20, 21, 22, 23, 30, 31]


def laps_of(draft_length: int, rounds: int, verify_ms: float, head_ms: float) -> dict[str, list[float]]:
    """Select 0.5 ms, layer 2 ms, extend 3 ms, the rest as given."""
    laps = {
        "draft_prefill": [4.0],
        "lm_head": [head_ms] * draft_length * rounds,
        "select": [0.5] * draft_length * rounds,
        "layer": [2.0] * (draft_length - 1) * rounds,
        "verify": [verify_ms] * rounds,
        "other": [0.0] * rounds,
        "extend": [3.0] * (rounds - 1),
    }
    return {name: times for name, times in laps.items() if times}


def decode(
    prompt: str, vocab_size: int, draft_length: int, accepted: list[int], verify_ms: float, head_ms: float
) -> DecodeRecord:
    plain = {"verify": [verify_ms] * 8}
    laps = laps_of(draft_length, len(accepted), verify_ms, head_ms) if draft_length else plain
    total = sum(map(sum, laps.values()))
    return DecodeRecord(
        "code", prompt, vocab_size, draft_length, 1, 20, list(ANSWER), accepted, total, total + 1, laps
    )


def probe(prompt: str, vocab_size: int, draft_length: int, head_ms: float) -> ProbeRecord:
    return ProbeRecord(
        "code", prompt, vocab_size, draft_length, False, 1, laps_of(draft_length, 3, 24.0, head_ms)
    )


def replayed(prompt: str, source: str, lowest: int, longest: int) -> ReplayRecord:
    """Every token is drafted right by the sizes from `lowest` on."""
    places = len(ANSWER) - 1
    return ReplayRecord(
        "code",
        prompt,
        source,
        list(ANSWER),
        [[lowest] * longest] * places,
        [[FULL + 1] * longest] * places,
        7.0,
    )


def write_run(folder: Path, head_ms: dict[int, float] | None = None, draft_length: int = 3) -> Path:
    """Two prompts, plain decoding at 20 ms a token, and drafts of 100, 20 and 10 tokens.

    All drafts of at least 10 tokens are always right. The pool ranks as the domain itself, but gets every
    token right from 20 on only. Latency is probed at 100 and 10 tokens.
    """
    head_ms = head_ms or {FULL: 5.5, 10: 0.5}
    head_ms = {20: head_ms[10] + (head_ms[FULL] - head_ms[10]) / 9, **head_ms}
    config = {"measure": {"bootstrap_samples": 200, "seed": 0, "draft_lengths": [draft_length]}}
    records = _records(head_ms, draft_length)
    return write_run_folder(folder, config, {"full_vocab_size": FULL}, records)


def _records(head_ms: dict[int, float], draft_length: int) -> Iterator[Record]:
    for source in ("code", "pooled"):
        yield RankingRecord(source, SEEN, [4.0] * 10 + [5.0] * 2, 1, None)
    for prompt in PROMPTS:
        yield replayed(prompt, "code", 10, draft_length)
        yield replayed(prompt, "pooled", 20, draft_length)
    yield PlanRecord(
        "code",
        "code",
        [
            (FULL, 0, "plain"),
            (FULL, draft_length, "full"),
            (10, draft_length, "optimum+lossless"),
            (20, draft_length, "paper"),
        ],
    )
    for prompt in PROMPTS:
        for size in (FULL, 10):
            yield probe(prompt, size, draft_length, head_ms[size])
        yield decode(prompt, FULL, 0, [], 20.0, 0)
        # Eight tokens after the first, in rounds of gamma + 1.
        accepted = [draft_length] * (8 // (draft_length + 1))
        for size in (FULL, 10, 20):
            yield decode(prompt, size, draft_length, accepted, 24.0, head_ms[size])
    for cache, factor in (("cold", 1.0), ("warm", 0.5)):
        for size in (FULL, 10):
            samples = [head_ms[size] * factor] * 6
            yield IsolatedRecord("lm_head", size, None, cache, samples, samples, 1, "precise", 0.0)
        samples = [24.0 * factor] * 6
        yield IsolatedRecord("verify", None, draft_length + 1, cache, samples, samples, 1, "precise", 0.0)
    yield BaselineRecord("code", "p1", 9, 100.0, 120.0)
