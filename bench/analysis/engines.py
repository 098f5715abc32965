"""Planned variants in another engine beside our loop: speed, acceptance, texts, and where a gain went."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.engine_parts import OWN_LOOP
from bench.analysis.metrics import estimate_columns
from bench.analysis.run import Run
from bench.analysis.surfaces import measured_tokens_per_s, replayed_by_position
from bench.records import ServedRecord
from bench.stats.estimates import Estimate, Floats
from bench.stats.jackknife import log_interval
from bench.surface.choice import FULL, OPTIMUM, PLAIN
from bench.variant import Variant

# Accepted tokens that are expected, so that none is no chance.
_LEAST_EXPECTED = 10

# Before the names of vLLM's counters.
_COUNTED = "vllm:spec_decode_"

# Of the mean acceptance length, between an engine's count and the replay of the same prompts.
_MOST_DIFFERENCE = 0.02


@dataclass(frozen=True)
class _Arm:
    """All processes of one variant at one concurrency, by index."""

    records: dict[int, ServedRecord]

    @property
    def log_tokens_per_s(self) -> dict[int, float]:
        return {index: float(np.log(tokens_per_s(record))) for index, record in self.records.items()}

    def all(self) -> list[ServedRecord]:
        return list(self.records.values())


@dataclass(frozen=True, order=True)
class _Load:
    """What one engine was asked for.

    Attributes:
        engine: its name.
        temperature: of sampling, where it is not that of the run; else -1.
        context_tokens: least length of prompts, where earlier ones were put before them; else 0.
        concurrency: requests at a time.
    """

    engine: str
    temperature: float
    context_tokens: int
    concurrency: int

    @classmethod
    def of(cls, record: ServedRecord) -> "_Load":
        temperature = -1.0 if record.temperature is None else record.temperature
        return cls(record.engine, temperature, record.context_tokens or 0, record.concurrency)

    @property
    def is_of_run(self) -> bool:
        """Whether our loop decoded the same prompts in the same way."""
        return self.temperature < 0 and not self.context_tokens


Arms = dict[tuple[_Load, Variant], _Arm]


def served_frame(run: Run) -> pd.DataFrame:
    """One row for each domain, engine, setting, concurrency and variant; empty without another engine.

    The setting is `temperature` and `context_tokens`, both empty for that of the run.
    """
    rows = [row for domain, records in run.served.items() for row in _rows(run, domain, records)]
    return pd.DataFrame(rows)


def round_frame(run: Run) -> pd.DataFrame:
    """By engine, what a round takes with one request at a time, and what of it trimming saves.

    Where two engines gain differently, it is because trimming saves another time, or because it saves the
    same time of a longer round.
    """
    rows: list[dict[str, Any]] = []
    for domain, records in run.served.items():
        variants = {role: run.variant_of(domain, role) for role in (PLAIN, FULL, OPTIMUM)}
        own = _own_round_ms(run, domain)
        alone = [r for r in records if r.concurrency == 1 and _Load.of(r).is_of_run]
        engines = {
            name: _round_ms([record for record in alone if record.engine == name])
            for name in dict.fromkeys(record.engine for record in alone)
        }
        for engine, times in {OWN_LOOP: own, **engines}.items():
            if all(variant in times for variant in variants.values()):
                plain, full, best = (times[variants[role]] for role in (PLAIN, FULL, OPTIMUM))
                rows.append(
                    {
                        "domain": domain,
                        "engine": engine,
                        "plain_step_ms": plain,
                        "full_round_ms": full,
                        "trimmed_round_ms": best,
                        "saved_ms": full - best,
                        "saved_share": 1 - best / full,
                    }
                )
    return pd.DataFrame(rows)


def engine_facts(served: pd.DataFrame, rounds: pd.DataFrame, domain: str) -> list[str]:
    """What the two tables say of a domain, in sentences.

    Args:
        served: of `served_frame`.
        rounds: of `round_frame`.
        domain: the domain.
    """
    if served.empty:
        return []
    rows = served[served["domain"] == domain]
    drafts = rows[rows["draft_length"] > 0]
    found = []
    agreeing = drafts["acceptance_agrees"].dropna()
    if len(agreeing):
        found.append(
            f"Acceptance: {int(agreeing.sum())} of {len(agreeing)} mean acceptance lengths are within "
            f"{_MOST_DIFFERENCE:.0%} of the replay of the same prompts."
        )
        same = drafts.loc[agreeing.index, "identical_output_frac"].astype(float)
        if not agreeing.all() and (same < 1).any():
            found.append(
                "Other texts accept differently: where rounding makes two engines choose other tokens, their "
                "acceptance differs too. With dtype=float32 both can be compared token by token."
            )
    elif len(drafts):
        version = f"{drafts['engine'].iloc[0]} {drafts['engine_version'].iloc[0]}"
        found.append(
            f"Acceptance: not compared, as {version} does not count what is accepted by position, or nothing "
            "greedy was replayed."
        )
    same = rows["identical_output_frac"].dropna()
    if len(same):
        found.append(
            f"Texts: {_range(same.min(), same.max())} of the greedy answers equal those of plain decoding."
        )
    found += _sampling_faults(drafts)
    times = rounds[rounds["domain"] == domain] if len(rounds) else rounds
    found += [
        f"A round of {row['engine']} takes {row['full_round_ms']:#.3g} ms with the full vocabulary, trimmed "
        f"{row['trimmed_round_ms']:#.3g} ms: {row['saved_ms']:#.3g} ms or {row['saved_share']:.1%} less."
        for _, row in times.iterrows()
    ]
    return found


def _range(low: float, high: float) -> str:
    return f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}"


def _sampling_faults(drafts: pd.DataFrame) -> list[str]:
    """Engines that accept nothing of what they draft once they sample, although greedily they accept much.

    The target gives a drafted token some probability, so that such an engine samples from something else.
    """
    found = []
    for engine, rows in drafts.groupby("engine", sort=False):
        greedy = rows[rows["temperature"].isna() & rows["context_tokens"].isna()]
        rate = greedy["num_accepted_tokens"].sum() / max(greedy["num_draft_tokens"].sum(), 1)
        for temperature, sampled in rows[rows["temperature"] > 0].groupby("temperature"):
            drafted, accepted = sampled["num_draft_tokens"].sum(), sampled["num_accepted_tokens"].sum()
            if accepted == 0 and rate * drafted >= _LEAST_EXPECTED:
                found.append(
                    f"Sampling: at temperature {temperature:g}, {engine} accepts none of {drafted:,.0f} "
                    f"drafted tokens; greedy, it accepts {rate:.0%}. Its rejection sampling does not work "
                    "here, and the texts that it samples with a draft are not the target's: use its sampled "
                    "speeds with a draft for nothing."
                )
    return found


def tokens_per_s(record: ServedRecord) -> float:
    """Output tokens of all requests over the time that all of them took, prefills included."""
    return record.num_output_tokens / record.wall_ms * 1e3


def _rows(run: Run, domain: str, records: list[ServedRecord]) -> list[dict[str, Any]]:
    arms = _arms(records)
    roles = {item.variant: item.role for item in run.plans[domain].planned}
    plain, full = run.variant_of(domain, PLAIN), run.variant_of(domain, FULL)
    own = measured_tokens_per_s(run, domain)
    rows = []
    for (load, variant), arm in sorted(arms.items(), key=lambda item: item[0]):
        found = arm.all()
        gaps, plain_arm = _gaps_ms(found), arms.get((load, plain))
        row: dict[str, Any] = {
            "domain": domain,
            "engine": load.engine,
            "engine_version": found[0].engine_version,
            "temperature": found[0].temperature,
            "context_tokens": found[0].context_tokens,
            "concurrency": load.concurrency,
            "role": roles.get(variant, ""),
            **variant.columns,
            "num_processes": len(found),
            **estimate_columns("tokens_per_s", _mean(arm)),
            **estimate_columns("speedup_vs_autoregressive", _ratio(arm, plain_arm)),
            **estimate_columns("speedup_vs_full_vocab", _ratio(arm, arms.get((load, full)))),
            "own_speedup_vs_full_vocab": own[variant] / own[full]
            if variant in own and load.is_of_run
            else None,
            "inter_token_p50_ms": gaps[0],
            "inter_token_p90_ms": gaps[1],
            "inter_token_p99_ms": gaps[2],
            "first_token_p50_ms": float(np.median([at[0] for r in found for at in r.at_ms if at])),
            "num_drafts": _counted(found, "num_drafts"),
            "num_draft_tokens": _counted(found, "num_draft_tokens"),
            "num_accepted_tokens": _counted(found, "num_accepted_tokens"),
            "identical_output_frac": _share_identical(run, domain, load, found, plain_arm),
        }
        if not variant.is_plain:
            row |= _acceptance(run, domain, variant, found, is_replayed=load.is_of_run)
        rows.append(row)
    return rows


def _acceptance(
    run: Run, domain: str, variant: Variant, records: list[ServedRecord], is_replayed: bool
) -> dict[str, Any]:
    """What the engine accepted, and what the replay of the same prompts expects of that variant."""
    replays = run.replays[domain][run.plans[domain].source]
    known = [p for p in records[0].prompt_ids if p in replays and len(replays[p].token_ids) > 1]
    expected = replayed_by_position(run, domain, variant, known) if known and is_replayed else None
    rates = _by_position(records)
    found = None if rates is None else 1 + float(rates.sum())
    replayed = None if expected is None else 1 + float(expected.sum())
    apart = None if found is None or replayed is None else found / replayed - 1
    return {
        "mean_acceptance_length": found,
        "replayed_mean_acceptance_length": replayed,
        "acceptance_difference": apart,
        "acceptance_agrees": None if apart is None else abs(apart) <= _MOST_DIFFERENCE,
        "accepted_by_position": _joined(rates),
        "replayed_by_position": _joined(expected),
    }


def _by_position(records: Sequence[ServedRecord]) -> Floats | None:
    """Share of drafts whose token at each position was accepted, by the engine's own counters.

    What arrived says a little less: the longest answer cuts its last round.
    """
    drafts, accepted = 0.0, None
    for record in records:
        for name, value in record.counters.items():
            if isinstance(value, list):
                accepted = np.array(value, float) + (0 if accepted is None else accepted)
            elif name.endswith("num_drafts"):
                drafts += float(value)
    return None if accepted is None or not drafts else accepted / drafts


def _joined(rates: Floats | None) -> str | None:
    return None if rates is None else " ".join(f"{rate:.3f}" for rate in rates)


def _counted(records: Sequence[ServedRecord], name: str) -> float | None:
    """The engine's own count over all processes; None where it does not count that."""
    counts = [
        value for r in records for key, value in r.counters.items() if key.removeprefix(_COUNTED) == name
    ]
    return float(sum(counts)) if counts else None


def _share_identical(
    run: Run, domain: str, load: _Load, records: list[ServedRecord], plain: _Arm | None
) -> float | None:
    """Greedy answers that are those of plain decoding: of our loop, or where it has none, of the engine."""
    if load.temperature > 0 or run.is_sampled:
        return None
    reference: dict[str, Any] = {}
    if load.is_of_run and records[0].texts is None:
        decodes = run.decodes[domain].get(run.plain, {})
        reference = {prompt: decoded.token_ids for prompt, decoded in decodes.items()}
    elif plain is not None and plain.all()[0] is not records[0]:
        reference = _answers(plain.all()[0])
    same = [
        answer == reference[prompt]
        for record in records
        for prompt, answer in _answers(record).items()
        if prompt in reference
    ]
    return float(np.mean(same)) if same else None


def _answers(record: ServedRecord) -> dict[str, Any]:
    """Token ids, or texts where the engine gives those alone."""
    answers: Sequence[Any] = record.token_ids if record.texts is None else record.texts
    return dict(zip(record.prompt_ids, answers, strict=True))


def _gaps_ms(records: list[ServedRecord]) -> list[float | None]:
    """Median, 90th and 99th percentile of the time between two arrivals at a request."""
    gaps = [gap for record in records for at in record.at_ms for gap in np.diff(at)]
    return [float(q) for q in np.quantile(gaps, [0.5, 0.9, 0.99])] if gaps else [None, None, None]


def _arms(records: list[ServedRecord]) -> Arms:
    found: dict[tuple[_Load, Variant], dict[int, ServedRecord]] = defaultdict(dict)
    for record in records:
        found[_Load.of(record), record.variant][record.process] = record
    return {key: _Arm(by_process) for key, by_process in found.items()}


def _mean(arm: _Arm) -> Estimate:
    return _interval(np.array(list(arm.log_tokens_per_s.values())))


def _ratio(arm: _Arm, base: _Arm | None) -> Estimate | None:
    """Speed over another arm's, process by process: neighbours in time are compared."""
    if base is None or base is arm:
        return None
    ours, theirs = arm.log_tokens_per_s, base.log_tokens_per_s
    shared = sorted(ours.keys() & theirs.keys())
    return _interval(np.array([ours[i] - theirs[i] for i in shared])) if shared else None


def _interval(logs: np.ndarray) -> Estimate:
    """Geometric mean over processes; unbounded of a single one."""
    n = len(logs)
    left_out = (logs.sum() - logs) / (n - 1) if n > 1 else logs
    return log_interval(float(logs.mean()), [left_out])


def _round_ms(records: list[ServedRecord]) -> dict[Variant, float]:
    """Mean time between two arrivals, by variant."""
    gaps: dict[Variant, list[float]] = defaultdict(list)
    for record in records:
        gaps[record.variant] += [gap for at in record.at_ms for gap in np.diff(at)]
    return {variant: float(np.mean(times)) for variant, times in gaps.items() if times}


def _own_round_ms(run: Run, domain: str) -> dict[Variant, float]:
    """The same of our loop: a step of plain decoding, or a round."""
    found = {}
    for variant, by_prompt in run.decodes[domain].items():
        rounds = sum(
            len(r.token_ids) - 1 if variant.is_plain else len(r.accepted) for r in by_prompt.values()
        )
        if rounds:
            found[variant] = sum(record.wall_ms for record in by_prompt.values()) / rounds
    return found
