"""The verdict on two runs: slower, not slower, or more than these data can tell."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import pandas as pd

from bench.analysis.diff import (
    ALL_DECODES,
    DECODE,
    FASTER,
    SLOWER,
    TOO_FEW,
    TOO_SHORT,
    UNCLEAR,
    diff_frame,
    output_frame,
    require_comparable,
)
from bench.analysis.differences import differences
from bench.analysis.latency import drift_of
from bench.analysis.run import Run
from bench.stats.estimates import ALPHA
from bench.stats.paired import least_count, least_prompts

_MOST_NAMED = 3

_PART_NAMES = {
    "layer": "draft layer", "lm_head": "LM head", "select": "token selection", "extend": "draft extension",
    "verify": "verification",
}  # fmt: skip


class Change(Enum):
    """What became of the speed."""

    slower = "slower"
    not_slower = "not slower"
    inconclusive = "inconclusive"


@dataclass(frozen=True)
class Outcome:
    """Two runs of the same work, the second judged by the first.

    Attributes:
        before: name of the first.
        after: name of the second.
        threshold: slowdown that matters, a share of the time before.
        change: the verdict.
        sentence: the verdict with its numbers.
        notes: what else a reader must know.
        times: as `diff_frame`.
        outputs: as `output_frame`.
    """

    before: str
    after: str
    threshold: float
    change: Change
    sentence: str
    notes: list[str]
    times: pd.DataFrame
    outputs: pd.DataFrame

    @property
    def exit_code(self) -> int:
        """1 where slower beyond the threshold with confidence, else 0."""
        return 1 if self.change is Change.slower else 0


def judge_change(before: Run, after: Run, threshold: float) -> Outcome:
    """Compares two runs of the same work on one device.

    Args:
        before: the run to judge by.
        after: the run to judge.
        threshold: slowdown that matters, a share of the time before.

    Raises:
        ConfigError: the runs cannot be compared.
    """
    require_comparable(before, after)
    times, outputs = diff_frame(before, after, threshold), output_frame(before, after)
    change, sentence = _change(times), ""
    drifted = max((before, after), key=lambda run: abs(drift_of(run).change))
    most = abs(drift_of(drifted).change)
    if most > threshold and not _outgrows(before, after, most, change):
        change, sentence = Change.inconclusive, _drift_sentence(times, drifted, threshold)
    return Outcome(
        before=before.folder.name,
        after=after.folder.name,
        threshold=threshold,
        change=change,
        sentence=sentence or _sentence(times, change, threshold),
        notes=list(_notes(before, after, times, outputs, threshold)),
        times=times,
        outputs=outputs,
    )


def _change(times: pd.DataFrame) -> Change:
    if (times["verdict"] == SLOWER).any():
        return Change.slower
    whole = times.iloc[0]
    assert whole["part"] == ALL_DECODES
    return Change.not_slower if whole["p_not_slower"] <= ALPHA else Change.inconclusive


def _outgrows(before: Run, after: Run, drifted: float, change: Change) -> bool:
    """Whether a slowdown is shown that is larger than the machine's own change while it was measured."""
    return change is Change.slower and _change(diff_frame(before, after, drifted)) is Change.slower


def _drift_sentence(times: pd.DataFrame, drifted: Run, threshold: float) -> str:
    slow = times[times["verdict"] == SLOWER]
    shown = f"{len(slow)} comparisons look slower, but not by more than that" if len(slow) else ""
    return (
        f"inconclusive: the machine changed while it was measured. {_drift_text(drifted)}, beyond the "
        f"threshold of {threshold:.1%}{'; ' * bool(shown)}{shown}; {_decoding(times.iloc[0])}. "
        "Measure both again on a machine that nothing else uses."
    )


def _drift_text(run: Run) -> str:
    return f"Within {run.folder.name} itself {drift_of(run).phrase('.1%')}"


def _decoding(whole: pd.Series) -> str:
    return (
        f"decoding takes {_with_interval(whole)} as long per token (median of {whole['num_prompts']} "
        "prompts, 95% bootstrap interval)"
    )


def _sentence(times: pd.DataFrame, change: Change, threshold: float) -> str:
    whole, judged = times.iloc[0], times[times["verdict"] != TOO_SHORT]
    decoding = _decoding(whole)
    if change is Change.slower:
        slow = judged[judged["verdict"] == SLOWER]
        # The whole first, where it is among them.
        slow = slow.sort_values("ratio", ascending=False).sort_values(
            "part", key=lambda part: part != ALL_DECODES, kind="stable"
        )
        named = [f"{row_name(row)} {_with_interval(row)}" for _, row in slow.head(_MOST_NAMED).iterrows()]
        more = f" and {len(slow) - len(named)} more" if len(slow) > len(named) else ""
        return (
            f"slower: {len(slow)} of {len(judged)} comparisons take more than {threshold:.1%} longer with "
            f"95% confidence over all of them: {', '.join(named)}{more}; {decoding}."
        )
    if change is Change.not_slower:
        return f"not slower: {decoding}, and a slowdown of {threshold:.1%} can be excluded."
    enough = least_count(whole["num_prompts"], ALPHA)
    why = (
        f"so few prompts can neither show nor exclude a slowdown of {threshold:.1%}"
        if enough is None
        else f"a slowdown of {threshold:.1%} is neither shown nor excluded"
    )
    return f"inconclusive: {decoding}; {why}: raise measure.num_prompts."


def _notes(
    before: Run, after: Run, times: pd.DataFrame, outputs: pd.DataFrame, threshold: float
) -> Iterator[str]:
    whole, judged = times.iloc[0], times[times["verdict"] != TOO_SHORT]
    least = whole["least_shown"]
    if pd.isna(least):
        yield (
            f"With {whole['num_prompts']} prompts no slowdown of all decodes, however large, would be called "
            f"one: {least_prompts(ALPHA / 2)} are the fewest that can show one."
        )
    else:
        yield (
            f"The smallest slowdown of all decodes that these data would have called one is {least:.1%}; "
            f"half of the error rate is theirs, {len(judged) - 1} other comparisons share the rest (Holm)."
        )
    said = {
        FASTER: "took less time by more than the threshold",
        UNCLEAR: "stay unclear",
        TOO_FEW: "have too few prompts for that many at once (raise measure.num_prompts)",
    }
    for verdict, text in said.items():
        rows = judged[judged["verdict"] == verdict]
        if len(rows):
            named = ", ".join(row_name(row) for _, row in rows.head(_MOST_NAMED).iterrows())
            more = f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else ""
            yield f"{len(rows)} of {len(judged)} comparisons {text}: {named}{more}."
    identical = (outputs["identical_outputs"] * outputs["num_prompts"]).sum()
    yield f"{identical:.0f} of {outputs['num_prompts'].sum()} decodes wrote the same tokens in both runs."
    tau = outputs[outputs["draft_length"] > 0]
    moved = tau[tau["before_mean_acceptance_length"] != tau["after_mean_acceptance_length"]]
    for _, row in moved.iterrows():
        yield (
            f"{row_name(row)}: mean acceptance length went from {row['before_mean_acceptance_length']:.3f} "
            f"to {row['after_mean_acceptance_length']:.3f}."
        )
    for run in (before, after):
        if abs(drift_of(run).change) > threshold:
            yield f"{_drift_text(run)}: the machine changed while it was measured."
    yield from (f"{text[0].upper()}{text[1:]}." for text in differences(before, after).cautions)
    yield (
        "One run stands on each side: what changes from start to start is in the difference and not in its "
        "interval; where the verdict matters, measure both again."
    )


def row_name(row: pd.Series) -> str:
    """What a row of either frame is about."""
    part = row.get("part", DECODE)
    name = _PART_NAMES.get(part, part)
    if part == DECODE:
        drafted = f"k = {row['vocab_size']:,}, gamma = {row['draft_length']}"
        return f"{row['domain']} {drafted if row['draft_length'] else 'plain'}"
    if pd.notna(row["vocab_size"]):
        return f"{name} at k = {row['vocab_size']:,}"
    return f"{name} at gamma = {row['draft_length']}" if pd.notna(row["draft_length"]) else name


def _with_interval(row: pd.Series) -> str:
    return f"{row['ratio']:.3f}x [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
