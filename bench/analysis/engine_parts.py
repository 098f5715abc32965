"""What a round consists of in our loop and in another engine, so that one sees where a gain went."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.analysis.metrics import format_value
from bench.analysis.run import Run
from bench.records import DecodeRecord, ServedPartsRecord
from bench.stats.estimates import Floats
from bench.surface.choice import FULL, OPTIMUM, PLAIN
from bench.variant import DRAFT, EXTEND, HEAD, LAYER, PREFILL, SELECT, VERIFY, Variant

OWN_LOOP = "own"

# Parts of a round in the order in which they come, as columns. All of them add up to `round_ms`.
PARTS = (
    "part_verify_ms", "part_choose_ms", "part_layers_ms", "part_head_ms", "part_scatter_ms",
    "part_select_ms", "part_prepare_ms", "part_rest_ms",
)  # fmt: skip

# Parts that the other engine's rounds may have.
_SCOPES = (
    "forward", "postprocess", "sample", "draft", "draft_token", "draft_logits", "draft_head",
    "execute_model", "sample_tokens",
)  # fmt: skip

_OF_LAPS = {
    VERIFY: "part_verify_ms",
    LAYER: "part_layers_ms",
    EXTEND: "part_layers_ms",
    DRAFT: "part_layers_ms",
    HEAD: "part_head_ms",
    SELECT: "part_select_ms",
}


def parts_frame(run: Run) -> pd.DataFrame:
    """One row for each domain, engine and variant: what a round takes, and each of its parts.

    Medians over rounds, so that a part that was interrupted once does not count; of several processes the
    mean. The parts add up to `round_ms`.

    One request at a time. Columns are `domain`, `engine`, `role`, k and gamma, `round_ms`, `PARTS` and
    `num_rounds`. Our loop chooses tokens while it verifies, and has nothing to scatter: both are 0. Empty
    where no other engine said what its steps consist of.
    """
    rows = []
    for domain, records in run.served_parts.items():
        roles = {item.variant: item.role for item in run.plans[domain].planned}
        arms: dict[tuple[str, Variant], list[ServedPartsRecord]] = defaultdict(list)
        for record in records:
            if not record.reason:
                arms[record.engine, record.variant].append(record)
        variants = sorted({variant for _, variant in arms}, key=lambda v: (v.draft_length > 0, -v.vocab_size))
        found = [(OWN_LOOP, v, _of_laps(v, list(run.decodes[domain].get(v, {}).values()))) for v in variants]
        found += [
            (engine, variant, _of_engine(variant, arms[engine, variant]))
            for engine in dict.fromkeys(engine for engine, _ in arms)
            for variant in variants
            if (engine, variant) in arms
        ]
        rows += [
            {"domain": domain, "engine": engine, "role": roles.get(variant, ""), **variant.columns, **parts}
            for engine, variant, parts in found
            if parts
        ]
    return pd.DataFrame(rows)


def parts_facts(run: Run, parts: pd.DataFrame, domain: str) -> list[str]:
    """Why the engines gain differently, in sentences; `parts` is of `parts_frame`."""
    records = run.served_parts.get(domain, [])
    reasons = dict.fromkeys(record.reason for record in records if record.reason)
    found = [f"What a round consists of is not known: {reason}." for reason in reasons]
    found += _threads_fact(run, records)
    if parts.empty:
        return found
    rows = parts[parts["domain"] == domain]
    for engine, of_engine in rows.groupby("engine", sort=False):
        by_role = {role: row for _, row in of_engine.iterrows() for role in row["role"].split("+")}
        if not {PLAIN, FULL, OPTIMUM} <= by_role.keys():
            continue
        plain, full, best = (by_role[role] for role in (PLAIN, FULL, OPTIMUM))
        if full["vocab_size"] == best["vocab_size"]:
            continue
        saved = full["part_head_ms"] - best["part_head_ms"]
        verify = full["part_verify_ms"]
        rest = full["round_ms"] - verify - full["part_head_ms"]
        found.append(
            f"{engine}: trimming takes {_ms(saved)} of LM head off a round of {_ms(full['round_ms'])} "
            f"({saved / full['round_ms']:.0%}). Of the rest of that round, verification takes {_ms(verify)} "
            f"(a plain step: {_ms(plain['part_verify_ms'])}) and everything else {_ms(rest)}."
        )
        if engine != OWN_LOOP:
            # The full draft scatters nothing: what it spends there is calls, and no writing.
            calls = full["part_scatter_ms"] / full["draft_length"] * best["draft_length"]
            scatter, choose = max(best["part_scatter_ms"] - calls, 0.0), best["part_select_ms"]
            per_token_us = 1e3 / best["draft_length"]
            found.append(
                f"{engine} writes the k logits of a trimmed draft into a row of all V, and takes the largest "
                f"of that row: {_ms(scatter)} a round for writing and {_ms(choose)} for choosing "
                f"({scatter * per_token_us:,.0f} and {choose * per_token_us:,.0f} us a drafted token). "
                f"Writing costs {_share(scatter, saved)} of what the smaller LM head saves."
            )
    return found


def _threads_fact(run: Run, records: Sequence[ServedPartsRecord]) -> list[str]:
    """On a CPU, where the engines do not compute with as many threads."""
    ours = run.environment.get("num_threads")
    theirs = {record.engine: record.num_threads for record in records if record.num_threads is not None}
    if run.environment.get("device") != "cpu" or ours is None:
        return []
    return [
        f"{engine} computes with {count} of the CPU's threads and our loop with {ours}: it keeps the others "
        "for its own processes."
        for engine, count in theirs.items()
        if count < ours
    ]


def _ms(value: float) -> str:
    return str(format_value("round_ms", value, with_unit=True))


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "more than all"


def _of_laps(variant: Variant, decodes: Sequence[DecodeRecord]) -> dict[str, float]:
    """Of our loop: all laps but the draft's prefill, which comes once an answer."""
    num_rounds = 0
    laps: dict[str, list[float]] = defaultdict(list)
    for record in decodes:
        num_rounds += len(record.token_ids) - 1 if variant.is_plain else len(record.accepted)
        for lap, times in record.laps_ms.items():
            laps[lap] += times
    if not num_rounds:
        return {}
    parts = dict.fromkeys(PARTS, 0.0)
    for lap, times in laps.items():
        if lap != PREFILL and times:
            parts[_OF_LAPS.get(lap, "part_rest_ms")] += float(np.median(times)) * len(times) / num_rounds
    return _row(parts, num_rounds)


def _of_engine(variant: Variant, records: Sequence[ServedPartsRecord]) -> dict[str, float]:
    """Of all processes: rounds that took in all gamma + 1 tokens."""
    whole = {name: 0.0 for name in PARTS}
    num_rounds = 0
    for record in records:
        is_round = np.array(record.num_tokens) == variant.draft_length + 1
        # The first tokens of an answer come with its prompt, which is no round.
        if not is_round.any() or not record.round_ms:
            continue
        count = int(is_round.sum())
        times: dict[str, Floats] = {name: np.zeros(count) for name in _SCOPES}
        times |= {name: np.array(ms)[is_round] for name, ms in record.parts_ms.items()}
        head, logits, token = (times[name] for name in ("draft_head", "draft_logits", "draft_token"))
        verify, choose, draft = times["forward"] + times["postprocess"], times["sample"], times["draft"]
        in_worker = times["execute_model"] + times["sample_tokens"]
        parts: dict[str, Floats] = {
            "part_verify_ms": verify,
            "part_choose_ms": choose,
            "part_layers_ms": draft - token,
            "part_head_ms": head,
            "part_scatter_ms": logits - head,
            "part_select_ms": token - logits,
            "part_prepare_ms": in_worker - verify - choose - draft,
            "part_rest_ms": np.full(1, np.median(record.round_ms) - np.median(in_worker)),
        }
        num_rounds += count
        for name, value in parts.items():
            whole[name] += float(np.median(value)) * count
    return _row({name: total / num_rounds for name, total in whole.items()}, num_rounds) if num_rounds else {}


def _row(parts: dict[str, float], num_rounds: int) -> dict[str, float]:
    return {"round_ms": sum(parts.values()), **parts, "num_rounds": num_rounds}
