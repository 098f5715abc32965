"""What two runs cannot be compared in, and what else differs between them, in plain words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.findings import Findings
from bench.analysis.load import Case, fact
from bench.analysis.run import Run

# What may explain a difference between two runs of the same case, and where the environment has it.
SETTINGS: tuple[tuple[str, Callable[[Mapping[str, Any]], Any]], ...] = (
    ("the driver", lambda found: fact(found, "driver")),
    ("the CUDA runtime", lambda found: (found.get("cuda") or {}).get("runtime")),
    ("torch", lambda found: (found.get("packages") or {}).get("torch")),
    ("transformers", lambda found: (found.get("packages") or {}).get("transformers")),
    ("numba", lambda found: (found.get("packages") or {}).get("numba")),
    ("the target's runner", lambda found: found.get("target_runner")),
    ("how rounds were executed", lambda found: (found.get("decoding") or {}).get("execution")),
    ("the number of CPU threads", lambda found: found.get("num_threads")),
    ("this project's version", lambda found: (found.get("packages") or {}).get("vocabtrim-bench")),
    ("this project's commit", lambda found: (found.get("git") or {}).get("commit")),
)

_COMMIT_CHARS = 8

PAIR_COLUMNS = ["left", "right", "comparable", "alike", "sentence"]


@dataclass(frozen=True)
class Differences:
    """Of two runs.

    Attributes:
        blocking: why they cannot be compared; empty where they can.
        cautions: what else differs, and so may be the reason of a difference.
    """

    blocking: list[str]
    cautions: list[str]

    @property
    def comparable(self) -> bool:
        """Whether figures of the two may stand side by side."""
        return not self.blocking

    @property
    def alike(self) -> bool:
        """Whether nothing that is recorded differs."""
        return not self.blocking and not self.cautions

    def sentence(self, left: str, right: str) -> str:
        """For readers, with the runs' names."""
        if self.blocking:
            return f"{left} and {right} cannot be compared: {'; '.join(self.blocking)}."
        if self.cautions:
            return f"{left} and {right} are compared, but {'; '.join(self.cautions)}."
        return f"{left} and {right} were measured alike."


def differences(left: Run, right: Run) -> Differences:
    """Between two runs; in the order that matters to a reader."""
    blocking = [f"they differ in {text}" for text in Case.of(left).differences(Case.of(right))]
    shared_domains = [domain for domain in left.decodes if domain in right.decodes]
    if not shared_domains:
        names = [", ".join(run.decodes) for run in (left, right)]
        blocking.append(f"no domain is in both ({names[0]} and {names[1]})")
    cautions = []
    for domain in shared_domains:
        shared = shared_prompts([left, right], domain)
        both = set(left.prompts[domain]) | set(right.prompts[domain])
        if not shared:
            blocking.append(f"of {domain} they have no prompt in common")
        elif len(shared) < len(both):
            cautions.append(f"of {domain} only {len(shared)} of {len(both)} prompts are in both")
    if not blocking:
        cautions += [
            f"the vocabularies of {d} differ" for d in shared_domains if _ranked_apart(left, right, d)
        ]
    cautions += _incomplete(left, right)
    return Differences(blocking, cautions + _settings_apart(left.environment, right.environment))


def shared_prompts(runs: Sequence[Run], domain: str) -> list[str]:
    """Ids of the prompts of a domain that every run has, with a text of the same length under that id."""
    plain = [run.decodes[domain][run.plain] for run in runs]
    common = set.intersection(*(set(by_prompt) for by_prompt in plain))
    return sorted(p for p in common if len({by_prompt[p].num_prompt_tokens for by_prompt in plain}) == 1)


def pair_frame(runs: Sequence[Findings]) -> pd.DataFrame:
    """One row per pair of runs that say something of each other, with `PAIR_COLUMNS`.

    Left out are pairs without a common domain of which each stands beside another run: a sweep has many.
    """
    found = {
        (left.name, right.name): differences(left.run, right.run) for left, right in combinations(runs, 2)
    }
    rows = [
        (left, right, difference.comparable, difference.alike, difference.sentence(left, right))
        for (left, right), difference in found.items()
        if not (_share_no_domain(difference) and _has_partner(left, found) and _has_partner(right, found))
    ]
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def _share_no_domain(difference: Differences) -> bool:
    return any(text.startswith("no domain") for text in difference.blocking)


def _has_partner(name: str, found: Mapping[tuple[str, str], Differences]) -> bool:
    return any(name in pair and difference.comparable for pair, difference in found.items())


def _ranked_apart(left: Run, right: Run, domain: str) -> bool:
    orders = [run.rankings[run.plans[domain].source].order for run in (left, right)]
    return not np.array_equal(orders[0], orders[1])


def _incomplete(left: Run, right: Run) -> list[str]:
    found = []
    if left.failures or right.failures:
        found.append(f"cases failed ({len(left.failures)} and {len(right.failures)})")
    if max(left.num_sessions, right.num_sessions) > 1:
        found.append(f"they took several sessions ({left.num_sessions} and {right.num_sessions})")
    return found


def _settings_apart(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    found = []
    for what, read in SETTINGS:
        values = read(left), read(right)
        if values[0] != values[1]:
            found.append(f"{what} differs ({format_setting(values[0])} and {format_setting(values[1])})")
    limits = [fact(environment, "power_limit_w") for environment in (left, right)]
    # Other devices have other limits; that needs no saying.
    if left["device_name"] == right["device_name"] and limits[0] != limits[1]:
        found.append(f"the power limit differs ({_watts(limits[0])} and {_watts(limits[1])})")
    return found


def format_setting(value: Any) -> str:
    """One setting as a reader takes it in."""
    text = "not recorded" if value is None else str(value)
    return text[:_COMMIT_CHARS] if len(text) == 40 else text


def _watts(value: float | None) -> str:
    return "not recorded" if value is None else f"{value:.0f} W"
