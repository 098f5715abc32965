"""Two runs of the same work: what takes longer in the second, paired by prompt, and the verdict."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pandas as pd

from bench.analysis.differences import differences, shared_prompts
from bench.analysis.latency import drift_of
from bench.analysis.metrics import format_interval, format_variant
from bench.analysis.run import Run
from bench.analysis.summary import shown_order
from bench.errors import ConfigError
from bench.records import DecodeRecord, ProbeRecord
from bench.stats.estimates import ALPHA, Floats
from bench.stats.paired import PairedRatio, least_count, least_prompts, primary_first, strictest_levels
from bench.variant import Variant

DECODE, ALL_DECODES = "decode", "all decodes"

SLOWER, FASTER, SAME, UNCLEAR = "slower", "faster", "same", "unclear"

TOO_FEW, TOO_SHORT = "too few prompts", "too short to judge"

# Parts of a round, and which of their sizes their time depends on.
_PARTS: Mapping[str, str | None] = {
    "layer": None, "lm_head": "vocab_size", "select": "vocab_size", "extend": "draft_length",
    "verify": "draft_length",
}  # fmt: skip

# What takes a smaller share of its rounds is shown and not judged: it changes from start to start by more
# than matters, and a change of it does not change the speed.
_LEAST_SHARE = 0.02

DIFF_COLUMNS = [
    "part", "domain", "vocab_size", "draft_length", "num_prompts", "before_ms", "after_ms", "ratio", "ci_low",
    "ci_high", "p_slower", "p_faster", "p_not_slower", "least_shown", "share", "verdict",
]  # fmt: skip

OUTPUT_COLUMNS = [
    "domain", "vocab_size", "draft_length", "num_prompts", "identical_outputs", "identical_accepted",
    "before_mean_acceptance_length", "after_mean_acceptance_length",
]  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """One thing that both runs timed, prompt by prompt.

    Attributes:
        part: `all decodes`, `decode`, or a part of a round.
        domain: of a decode; None where prompts of all domains are in it.
        vocab_size: k, where the time depends on it.
        draft_length: gamma, where the time depends on it.
        before_ms: of every prompt `(n,)`; ms per token of a decode, median lap of a part.
        after_ms: as `before_ms`.
        share: of the time of the rounds that it is in; None for decodes.
    """

    part: str
    domain: str | None
    vocab_size: int | None
    draft_length: int | None
    before_ms: Floats
    after_ms: Floats
    share: float | None = None

    @property
    def is_judged(self) -> bool:
        """Whether a change of it would change the speed."""
        return self.share is None or self.share >= _LEAST_SHARE


def require_comparable(before: Run, after: Run) -> None:
    """Refuses runs of which a difference would say nothing.

    Raises:
        ConfigError: they are different work, or on different devices.
    """
    found = differences(before, after)
    names = [run.environment["device_name"] for run in (before, after)]
    if names[0] != names[1]:
        raise ConfigError(
            f"{before.folder.name} was measured on {names[0]} and {after.folder.name} on {names[1]}: "
            "task=diff is for one device before and after a change, task=compare for several"
        )
    if not found.comparable:
        raise ConfigError(found.sentence(before.folder.name, after.folder.name).rstrip("."))


def diff_frame(before: Run, after: Run, threshold: float) -> pd.DataFrame:
    """One row per thing that both runs timed, with `DIFF_COLUMNS`.

    `ratio` is time after over time before; its interval is not corrected for the number of comparisons, the
    verdict and the p-values are. What both decoded as a whole is the first row and has half of the error rate
    to itself: it is the question, and many parts must not make it unanswerable. They share the other half.
    """
    timings = [timing for timing in _timings(before, after) if len(timing.before_ms)]
    ratios = [PairedRatio.of(np.log(t.after_ms / t.before_ms), threshold) for t in timings]
    judged = np.array([timing.is_judged for timing in timings])
    slower, faster = np.ones(len(timings)), np.ones(len(timings))
    slower[judged] = primary_first(np.array([r.p_slower for r in ratios])[judged])
    faster[judged] = primary_first(np.array([r.p_faster for r in ratios])[judged])
    whole, part = strictest_levels(max(2, int(judged.sum())))[:2]
    least = [ratio.least_shown(threshold, part if place else whole) for place, ratio in enumerate(ratios)]
    rows = [
        (
            timing.part, timing.domain, timing.vocab_size, timing.draft_length, ratio.num_prompts,
            float(np.median(timing.before_ms)), float(np.median(timing.after_ms)),
            *vars(ratio.ratio).values(),
            slower[place], faster[place], ratio.p_not_slower, least[place], timing.share,
            _verdict(timing, ratio, slower[place], faster[place], least[place]),
        )
        for place, (timing, ratio) in enumerate(zip(timings, ratios, strict=True))
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=DIFF_COLUMNS).astype({"vocab_size": "Int64", "draft_length": "Int64"})


def _verdict(
    timing: Timing, ratio: PairedRatio, p_slower: float, p_faster: float, least_shown: float | None
) -> str:
    if not timing.is_judged:
        return TOO_SHORT
    if p_slower <= ALPHA:
        return SLOWER
    if p_faster <= ALPHA:
        return FASTER
    if max(ratio.p_not_slower, ratio.p_not_faster) <= ALPHA:
        return SAME
    return UNCLEAR if least_shown is not None else TOO_FEW


def _timings(before: Run, after: Run) -> Iterator[Timing]:
    prompts = {d: shared_prompts([before, after], d) for d in before.decodes if d in after.decodes}
    decodes = list(_decodes(before, after, prompts))
    yield _all_decodes(decodes)
    yield from (timing for timing, _ in decodes)
    laps = [_laps(run, prompts) for run in (before, after)]
    for part, level in _PARTS.items():
        known = laps[0].keys() & laps[1].keys()
        for size in sorted({key[1] for key in known if key[0] == part}, key=lambda s: s or 0):
            first, second = (found[part, size] for found in laps)
            both = sorted(first.samples.keys() & second.samples.keys())
            yield Timing(
                part=part,
                domain=None,
                vocab_size=size if level == "vocab_size" else None,
                draft_length=size if level == "draft_length" else None,
                before_ms=first.medians_ms(both),
                after_ms=second.medians_ms(both),
                share=first.total_ms / first.rounds_ms,
            )


def _decodes(
    before: Run, after: Run, prompts: Mapping[str, list[str]]
) -> Iterator[tuple[Timing, list[tuple[str, str]]]]:
    """Every variant that both decoded, and the (domain, prompt) of each of its times."""
    for domain, names in prompts.items():
        variants = before.decodes[domain].keys() & after.decodes[domain].keys()
        for variant in sorted(variants, key=shown_order):
            records = [run.decodes[domain][variant] for run in (before, after)]
            kept = [name for name in names if all(name in by_prompt for by_prompt in records)]
            first, second = (np.array([_ms_per_token(r[name]) for name in kept]) for r in records)
            timing = Timing(DECODE, domain, variant.vocab_size, variant.draft_length, first, second)
            yield timing, [(domain, name) for name in kept]


def _all_decodes(decodes: list[tuple[Timing, list[tuple[str, str]]]]) -> Timing:
    """Of every prompt the geometric mean over its decodes."""
    logs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for timing, names in decodes:
        for name, *pair in zip(names, np.log(timing.before_ms), np.log(timing.after_ms), strict=True):
            logs[name].append((pair[0], pair[1]))
    means = np.exp([np.mean(logs[name], axis=0) for name in sorted(logs)]).reshape(-1, 2)
    return Timing(ALL_DECODES, None, None, None, means[:, 0], means[:, 1])


def _ms_per_token(record: DecodeRecord) -> float:
    return record.decode_ms / (len(record.token_ids) - 1)


@dataclass
class _Laps:
    """Laps of one part at one size, by (domain, prompt), and how long their rounds took in all."""

    samples: dict[tuple[str, str], list[float]]
    total_ms: float = 0.0
    rounds_ms: float = 0.0

    def medians_ms(self, names: list[tuple[str, str]]) -> Floats:
        """Of these prompts `(n,)`."""
        return np.array([np.median(self.samples[name]) for name in names])


def _laps(run: Run, prompts: Mapping[str, list[str]]) -> dict[tuple[str, int | None], _Laps]:
    found: dict[tuple[str, int | None], _Laps] = {}
    for domain, names in prompts.items():
        for probe in run.probes[domain]:
            if probe.prompt_id not in names:
                continue
            # The draft's prefill comes once an answer, not once a round.
            rounds_ms = sum(sum(ms) for name, ms in probe.laps_ms.items() if name != "draft_prefill")
            for part in _PARTS:
                samples = [ms for ms in probe.laps_ms.get(part, []) if ms > 0]
                if samples:
                    laps = found.setdefault((part, _level(part, probe)), _Laps(defaultdict(list)))
                    laps.samples[domain, probe.prompt_id] += samples
                    laps.total_ms += sum(samples)
                    laps.rounds_ms += rounds_ms
    return found


def _level(part: str, probe: ProbeRecord) -> int | None:
    level = _PARTS[part]
    return None if level is None else int(getattr(probe, level))


def output_frame(before: Run, after: Run) -> pd.DataFrame:
    """What was decoded, token by token, with `OUTPUT_COLUMNS`; shares are of the shared prompts."""
    rows = []
    for domain in (d for d in before.decodes if d in after.decodes):
        names = shared_prompts([before, after], domain)
        variants = before.decodes[domain].keys() & after.decodes[domain].keys()
        for variant in sorted(variants, reverse=True):
            left, right = (run.decodes[domain][variant] for run in (before, after))
            pairs = [(left[p], right[p]) for p in names if p in left and p in right]
            if pairs:
                rows.append(_output_row(domain, variant, pairs))
    return pd.DataFrame(rows, columns=OUTPUT_COLUMNS)


def _output_row(
    domain: str, variant: Variant, pairs: list[tuple[DecodeRecord, DecodeRecord]]
) -> tuple[object, ...]:
    return (
        domain, variant.vocab_size, variant.draft_length, len(pairs),
        float(np.mean([a.token_ids == b.token_ids for a, b in pairs])),
        float(np.mean([a.accepted == b.accepted for a, b in pairs])) if not variant.is_plain else None,
        *(_acceptance_length([pair[place] for pair in pairs]) for place in (0, 1)),
    )  # fmt: skip


def _acceptance_length(records: list[DecodeRecord]) -> float:
    accepted = [count for record in records for count in record.accepted]
    return 1 + sum(accepted) / len(accepted) if accepted else 1.0


# The verdict: slower, not slower, or more than these data can say.

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
class DiffFindings:
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
    def judged(self) -> pd.DataFrame:
        """What was judged, with the `name` of each comparison for readers."""
        rows = self.times[self.times["verdict"] != TOO_SHORT]
        return rows.assign(name=[row_name(row) for _, row in rows.iterrows()])

    @property
    def shown(self) -> pd.DataFrame:
        """Of these the decodes, and the parts that changed."""
        judged = self.judged
        is_decode = judged["part"].isin([ALL_DECODES, DECODE])
        return judged[is_decode | judged["verdict"].isin([SLOWER, FASTER])]

    @property
    def exit_code(self) -> int:
        """1 where slower beyond the threshold with confidence, else 0."""
        return 1 if self.change is Change.slower else 0


def judge_change(before: Run, after: Run, threshold: float) -> DiffFindings:
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
    return DiffFindings(
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
        f"decoding takes {_ratio(whole)} as long per token (median of {whole['num_prompts']} "
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
        named = [f"{row_name(row)} {_ratio(row)}" for _, row in slow.head(_MOST_NAMED).iterrows()]
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
        variant = row["vocab_size"], row["draft_length"]
        return f"{row['domain']} {format_variant(*variant) if row['draft_length'] else 'plain'}"
    if pd.notna(row["vocab_size"]):
        return f"{name} at k = {row['vocab_size']:,}"
    return f"{name} at gamma = {row['draft_length']}" if pd.notna(row["draft_length"]) else name


def _ratio(row: pd.Series) -> str:
    return format_interval("ratio", row["ratio"], row["ci_low"], row["ci_high"], with_unit=True)
