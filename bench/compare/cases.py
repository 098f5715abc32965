"""What must be equal for two runs to be comparable, and names for what is."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from bench.report.frames import Run

_FINGERPRINT_CHARS = 6


@dataclass(frozen=True)
class Case:
    """The work that was measured; runs of different cases never stand side by side.

    Attributes:
        pair: its name.
        dtype: of weights and arithmetic.
        target: fingerprint of the target; None where the run does not say.
        draft: fingerprint of the draft; None where the run does not say.
        full_size: tokens of the untrimmed draft.
        temperature: 0 is greedy.
        top_k: of sampling.
        top_p: of sampling.
        max_new_tokens: longest answer; None where the run does not say.
    """

    pair: str
    dtype: str
    target: str | None
    draft: str | None
    full_size: int
    temperature: float
    top_k: int | None
    top_p: float | None
    max_new_tokens: int | None

    @classmethod
    def of(cls, run: Run) -> "Case":
        """What a run measured."""
        environment, measure = run.environment, run.config["measure"]
        return cls(
            pair=environment["pair"],
            dtype=environment["dtype"],
            target=environment.get("target_fingerprint"),
            draft=environment.get("draft_fingerprint"),
            full_size=run.full_size,
            temperature=float(measure.get("temperature") or 0),
            top_k=measure.get("top_k"),
            top_p=measure.get("top_p"),
            max_new_tokens=measure.get("max_new_tokens"),
        )

    def differences(self, other: "Case") -> list[str]:
        """In what the other is different work, in words."""
        found = []
        for item in fields(self):
            mine, its = getattr(self, item.name), getattr(other, item.name)
            if mine != its:
                told = tell(item.name, mine), tell(item.name, its)
                found.append(f"{CASE_NAMES[item.name]} ({told[0]} and {told[1]})")
        return found


CASE_NAMES = {
    "pair": "the pair",
    "dtype": "the dtype",
    "target": "the target's weights",
    "draft": "the draft's weights",
    "full_size": "the draft's whole vocabulary",
    "temperature": "the temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "max_new_tokens": "the longest answer",
}


def tell(field: str, value: Any) -> str:
    """One value of a case as a reader takes it in."""
    if value is None:
        return "not recorded" if field in ("target", "draft", "max_new_tokens") else "off"
    if field in ("target", "draft"):
        return str(value)[:_FINGERPRINT_CHARS]
    if field == "temperature":
        return "greedy" if value == 0 else f"{value:g}"
    if field in ("full_size", "max_new_tokens"):
        return f"{value:,} tokens"
    return str(value)


def case_labels(cases: Iterable[Case]) -> dict[Case, str]:
    """`pair, dtype` of every case, and what else tells those of the same pair and dtype apart."""
    groups: dict[str, set[Case]] = defaultdict(set)
    for case in cases:
        groups[f"{case.pair}, {case.dtype}"].add(case)
    labels = {}
    for base, group in groups.items():
        varied = [
            item.name
            for item in fields(Case)
            if item.name not in ("pair", "dtype") and len({getattr(case, item.name) for case in group}) > 1
        ]
        for case in group:
            told = [f"{_NAMES[name]} {tell(name, getattr(case, name))}" for name in varied]
            labels[case] = ", ".join([base, *told])
    return labels


_NAMES = {
    "target": "target",
    "draft": "draft",
    "full_size": "draft of",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "max_new_tokens": "answers of at most",
}
