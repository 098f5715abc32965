"""Conditions under which a domain was measured, against limits fixed before: past one, a figure is INVALID.

A condition touches some figures and leaves others alone. Drafts are interleaved, prompt by prompt, so that a
machine that slows down evenly moves tokens/s and leaves the ratio of two drafts as it was. Plain decoding
passes one token through the target where a round passes several: another kind of work, on which clocks and
memory act otherwise, so that the speedup over it holds less well.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bench.analysis.doubts import SLOWED, records_of, while_measured
from bench.analysis.figures import (
    ALL,
    OF_THE_MACHINE,
    OVER_FULL,
    OVER_FULL_BEST,
    OVER_PLAIN,
    PREDICTION,
    SPEED,
    Gain,
)
from bench.analysis.latency import drift_in
from bench.analysis.launches import launch_ratio
from bench.analysis.run import EAGER, Run
from bench.config import LimitsConfig
from bench.errors import OutputError
from bench.vocab.draft_vocab import Floats

_LEAST_SAMPLES = 10


@dataclass(frozen=True)
class Condition:
    """One condition of one domain.

    Attributes:
        name: key of its limit in `limits`.
        value: as measured; None where it is not known.
        limit: above which the figures that it touches are INVALID; None where it is not judged.
        touches: names of figures (`bench.analysis.figures`).
        what: what was seen, in words; where the value is not known, why.
        remedy: what to do.
    """

    name: str
    value: float | None
    limit: float | None
    touches: tuple[str, ...]
    what: str
    remedy: str

    @property
    def is_exceeded(self) -> bool:
        """Whether the value is past the limit."""
        return self.value is not None and self.limit is not None and self.value > self.limit

    @property
    def reason(self) -> str:
        """What was seen, with the limit, and the remedy, as a sentence."""
        assert self.limit is not None
        form = "{:.3g}" if self.name == "launch_ratio" else "{:.0%}"
        limit = form.format(self.limit)
        return f"{self.what} (limits.{self.name} is {limit}); {self.remedy}"


def limits_of(run: Run) -> LimitsConfig:
    """The limits that a run was started with; the defaults for runs of earlier versions.

    Raises:
        OutputError: the run names a limit that this version does not know.
    """
    given: Mapping[str, Any] = run.config.get("limits") or {}
    known = {item.name for item in fields(LimitsConfig)}
    if unknown := sorted(given.keys() - known):
        raise OutputError(
            f"{run.folder / 'config.yaml'}: limits.{unknown[0]} is not known to this version; read the run "
            "with the version that its environment.json names"
        )
    return LimitsConfig(**given)


def conditions_of(
    run: Run, domain: str, gains: Mapping[str, Gain | None], limits: LimitsConfig
) -> list[Condition]:
    """Every condition of a domain; a new one is a function, named in `_CHECKS`.

    Args:
        run: the run.
        domain: of the run's.
        gains: by figure, over the full-vocabulary draft and over plain decoding.
        limits: to judge by.
    """
    found = [check(run, domain, limits) for check in _CHECKS]
    for figure, gain in gains.items():
        found += _of_gain(figure, gain, limits) if gain else []
    return found


def _drift(run: Run, domain: str, limits: LimitsConfig) -> Condition:
    drift = drift_in(run, domain)
    what = "fewer than four plain decodes" if drift is None else drift.phrase(".0%")
    return Condition(
        "drift",
        None if drift is None else abs(drift.change),
        limits.drift,
        OF_THE_MACHINE,
        what,
        "warm the machine up, keep its clocks fixed, and measure again",
    )


def _disturbed(run: Run, domain: str, limits: LimitsConfig) -> Condition:
    records = records_of(run, domain)
    share = float(np.mean([record.num_repeats > 0 for record in records])) if records else None
    what = "nothing was measured" if share is None else f"{share:.0%} of the measurements were disturbed"
    remedy = "let nothing run beside a measurement, and measure again"
    return Condition("disturbed", share, limits.disturbed, ALL, what, remedy)


def _foreign_load(run: Run, domain: str, limits: LimitsConfig) -> Condition:
    remedy = "end other programs, and measure again"
    # The CPUs are not what a GPU is measured by; who else is on that GPU is a doubt of its own.
    limit = None if run.environment.get("cuda") else limits.foreign_load
    above = limits.foreign_load_above
    # What heads cost is estimated over all domains, so that one that was disturbed spoils the others.
    loads = {name: _loads_of_others(run, name) for name in run.decodes}
    shares = {
        name: float(np.mean(load > above)) for name, load in loads.items() if len(load) >= _LEAST_SAMPLES
    }
    if not shares:
        why = f"{len(loads[domain])} samples of the load of other programs"
        return Condition("foreign_load", None, limit, ALL, why, remedy)
    worst = max(shares, key=lambda name: (shares[name], name == domain))
    share, of_time = shares[worst], "of the time" + ("" if worst == domain else f" of {worst}")
    # Between measurements there are replays, which take the longer the more is beside them.
    of_all = float(np.mean(_loads_between(run) > above))
    if of_all > share:
        share, of_time = of_all, "of the time from the first measurement to the last"
    what = f"other programs took more than {above:.0%} of the CPUs in {share:.0%} {of_time}"
    return Condition("foreign_load", share, limit, ALL, what, remedy)


def _loads_of_others(run: Run, domain: str) -> Floats:
    """Share of the CPUs that other programs took in each sample of a domain."""
    return _loads(while_measured(run, records_of(run, domain)))


def _loads_between(run: Run) -> Floats:
    """The same of all samples from the first measurement to the last."""
    records = [record for domain in run.decodes for record in records_of(run, domain)]
    starts = [record.start_s for record in records if record.start_s is not None]
    ends = [record.end_s for record in records if record.end_s is not None]
    return _loads([row for row in run.samples.rows if min(starts) <= row["time_s"] <= max(ends)])


def _loads(rows: Sequence[Mapping[str, Any]]) -> Floats:
    return np.array([row["cpu_load_of_others"] for row in rows if row.get("cpu_load_of_others") is not None])


def _throttled(run: Run, domain: str, limits: LimitsConfig) -> Condition:
    rows = while_measured(run, records_of(run, domain))
    reasons = [set(row["throttle_reasons"]) for row in rows if row.get("throttle_reasons") is not None]
    remedy = "cool the GPU, raise its power limit, or lower its clocks to what it can keep up"
    if len(reasons) < _LEAST_SAMPLES:
        what = f"{len(reasons)} samples of what slows a GPU down"
        return Condition("throttled", None, limits.throttled, OF_THE_MACHINE, what, remedy)
    share = float(np.mean([bool(names & SLOWED.keys()) for names in reasons]))
    what = f"the GPU was slowed down in {share:.0%} of the time"
    return Condition("throttled", share, limits.throttled, OF_THE_MACHINE, what, remedy)


def _launch_bound(run: Run, domain: str, limits: LimitsConfig) -> Condition:
    touches = (SPEED, OVER_PLAIN, OVER_FULL)
    remedy = (
        "measure with measure.execution=graph, if the pair can be captured, or set limits.launch_ratio=null "
        "to judge the loop as it is"
    )
    found = launch_ratio(run)
    if found is None or run.execution != EAGER:
        what = "no part was timed both ways" if found is None else "rounds were executed as CUDA graphs"
        return Condition("launch_ratio", None, limits.launch_ratio, touches, what, remedy)
    without = "without waiting for launches" if found.of_rounds else "in a CUDA graph"
    what = f"the {found.part} takes {found.ratio:.3g}x as long launched kernel by kernel as {without}"
    return Condition("launch_ratio", found.ratio, limits.launch_ratio, touches, what, remedy)


_NAMES = {
    OVER_FULL: "the full-vocabulary draft",
    OVER_FULL_BEST: "the full-vocabulary draft with its best gamma",
    OVER_PLAIN: "plain decoding",
}


def _of_gain(figure: str, gain: Gain, limits: LimitsConfig) -> Iterator[Condition]:
    over = f"speed over {_NAMES[figure]}"
    half = gain.half_width
    yield Condition(
        "half_width",
        half if np.isfinite(half) else float(np.finfo(float).max),
        limits.half_width,
        (figure,),
        f"the interval of the {over} is " + (f"+-{half:.0%}" if half < 10 else "without end"),
        "measure more prompts (measure.acceptance_prompts, measure.latency_prompts), or several processes "
        "(measure.repeats)",
    )
    residual = gain.residual
    yield Condition(
        "residual",
        residual,
        limits.residual,
        (figure, PREDICTION),
        "not decoded" if residual is None else f"decodes contradict the {over} by {residual:.0%}",
        "measure again; if it stays, the model of a round is wrong here, and only whole decodes count",
    )


_CHECKS: Sequence[Callable[[Run, str, LimitsConfig], Condition]] = (
    _drift, _disturbed, _foreign_load, _throttled, _launch_bound,
)  # fmt: skip
