"""Several processes of one run: which of them count, and their decodes as one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bench.records import DecodeRecord, SessionRecord
from bench.variant import Variant

_MOST_OF = 0.8  # of the prompts of the first process, that another must have to be pooled with it


def whole_processes(prompts: Mapping[int, set[str]]) -> list[int]:
    """Those that have nearly all prompts: what one has not measured yet must not shorten what others have.

    Args:
        prompts: that can be compared, by process.
    """
    first = prompts[0]
    return [process for process, its in prompts.items() if len(its & first) >= _MOST_OF * len(first)]


def num_sessions(sessions: Sequence[SessionRecord]) -> int:
    """Of processes that were asked for, each has one of its own."""
    return len(sessions) - max(len({session.process for session in sessions}) - 1, 0)


def pooled(
    several: Sequence[dict[Variant, dict[str, DecodeRecord]]],
) -> dict[Variant, dict[str, DecodeRecord]]:
    """One decode per variant and prompt: the first process's tokens, at the mean time per token of all."""
    first, *others = several
    found: dict[Variant, dict[str, DecodeRecord]] = {}
    for variant, by_prompt in first.items():
        found[variant] = {}
        for prompt, record in by_prompt.items():
            same = [record, *(o[variant][prompt] for o in others if prompt in o.get(variant, {}))]
            found[variant][prompt] = _mean_of(same) if len(same) > 1 else record
    return found


def _mean_of(same: Sequence[DecodeRecord]) -> DecodeRecord:
    first, num_tokens = same[0], [max(len(record.token_ids) - 1, 1) for record in same]
    per_token = [(r.decode_ms / n, r.wall_ms / n) for r, n in zip(same, num_tokens, strict=True)]
    decode_ms, wall_ms = (float(ms) for ms in np.mean(per_token, axis=0) * num_tokens[0])
    laps = {name: [ms for r in same for ms in r.laps_ms.get(name, [])] for name in first.laps_ms}
    repeats = sum(record.num_repeats for record in same)
    return replace(first, decode_ms=decode_ms, wall_ms=wall_ms, laps_ms=laps, num_repeats=repeats)
