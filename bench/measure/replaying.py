"""Replays of one prompt: the target's answer, and what a draft would have accepted of it."""

import time

from bench.decoding.replay import read_answer, replay
from bench.decoding.replay_sampled import replay_sampled
from bench.measure.cases import EncodedPrompt
from bench.measure.rig import Rig
from bench.records import ReplayRecord, SampledReplayRecord
from bench.vocab.draft_vocab import IntArray


def replay_prompt(
    rig: Rig,
    domain: str,
    prompt: EncodedPrompt,
    orders: dict[str, IntArray],
    sizes: IntArray,
    longest: int,
) -> list[ReplayRecord] | list[SampledReplayRecord]:
    """One record per order of tokens; greedy answers tell it for every size, sampled ones for `sizes`.

    Args:
        rig: the pair.
        domain: of the prompt.
        prompt: the prompt.
        orders: by name, the draft's tokens as they enter a vocabulary.
        sizes: vocabulary sizes, ascending.
        longest: gamma up to which rounds draft.
    """
    rig.reseed(domain, prompt.prompt_id, "replay")
    prefill = rig.decoder.prefill(prompt.token_ids)
    answer = rig.decoder.plain(prefill, rig.timeline()).token_ids
    probs_of = rig.sampler.target_probs if rig.sampler else None
    text = read_answer(rig.target, prefill, answer, longest, rig.rule, probs_of)
    what = (rig.draft, rig.full_head, prefill.prompt_ids, text, orders)
    rig.device.synchronize()
    start = time.perf_counter()

    def passed_ms() -> float:
        rig.device.synchronize()
        return (time.perf_counter() - start) * 1e3

    case = (domain, prompt.prompt_id)
    if rig.sampler is None:
        found = replay(*what, longest)
        took_ms = passed_ms()
        return [
            ReplayRecord(*case, source, answer, item.low.tolist(), item.high.tolist(), took_ms)
            for source, item in found.items()
        ]
    ratios = replay_sampled(*what, sizes, rig.sampler, longest)
    took_ms = passed_ms()
    return [
        SampledReplayRecord(*case, source, answer, sizes.tolist(), item.ratios.round(5).tolist(), took_ms)
        for source, item in ratios.items()
    ]
