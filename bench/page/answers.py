"""The answer that a page opens with: per domain and device, what to use and what it buys."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.page.elements import Grid
from bench.report.energy import token_energy
from bench.report.facts import energy_fact
from bench.report.render import name_of_run
from bench.report.summary import held_out_tokens
from bench.report.surfaces import Surfaces, measured_tokens_per_s
from bench.report.tables import told, told_interval
from bench.report.verdict import Verdict, verdicts, with_interval


@dataclass(frozen=True)
class Answer:
    """One domain on one device.

    Attributes:
        device: its label.
        verdict: in numbers and words.
        tokens_per_s: measured, of the optimum.
        coverage: of held-out answers by its vocabulary.
        j_per_token: measured; None where it is not known.
        details: what else there is to know before acting on it.
        export_command: that writes the vocabulary and the trimmed draft.
    """

    device: str
    verdict: Verdict
    tokens_per_s: float
    coverage: float
    j_per_token: float | None
    details: list[str]
    export_command: str

    @property
    def badge(self) -> str:
        """The verdict in a word or three."""
        return self.kind.replace("_", " ")

    @property
    def kind(self) -> str:
        """The verdict as a name for styles."""
        return self.verdict.decision.value

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Name and value of what decides."""
        verdict, (size, gamma) = self.verdict, self.verdict.best
        energy, full = told(self.j_per_token, ".3g"), verdict.over_full
        over_full = "it is the full vocabulary" if full is None else with_interval(full)
        return [
            ("k", f"{size:,} of {verdict.full_size:,}"),
            ("fewer tokens", f"{1 - size / verdict.full_size:.1%}"),
            ("gamma", str(gamma)),
            ("over the full-vocabulary draft", over_full),
            ("over plain decoding", with_interval(verdict.over_plain)),
            ("tokens/s", f"{self.tokens_per_s:,.1f}"),
            ("held-out coverage", f"{self.coverage:.1%}"),
            ("energy per token", f"{energy} J" if energy else "not known"),
        ]


def answers_of(device: str, surfaces: Surfaces, runs_dir: Path) -> list[Answer]:
    """One per domain of a run.

    Args:
        device: its label.
        surfaces: of the run.
        runs_dir: where runs are kept; one that lies elsewhere is named by its path.
    """
    run = surfaces.run
    name = name_of_run(runs_dir, run.folder)
    found = []
    for verdict in verdicts(surfaces):
        domain, size = verdict.domain, verdict.best[0]
        ranking, energy = run.rankings[run.plans[domain].source], token_energy(run, domain, verdict.best)
        found.append(
            Answer(
                device,
                verdict,
                measured_tokens_per_s(run, domain)[verdict.best],
                float(ranking.coverage_of(held_out_tokens(run, domain))[size - 1]),
                energy.j_per_token,
                [*verdict.details(), energy_fact(run, domain)],
                f'make export ARGS="run={name} export.domain={domain}"',
            )
        )
    return found


def answer_grid(answers: Sequence[Answer]) -> Grid:
    """All answers as one table, to be sorted."""
    headings = [
        "domain", "device", "verdict", "k", "fewer tokens", "gamma", "tokens/s",
        "x full vocabulary [95%]", "x plain [95%]", "held-out coverage", "J/token", "num prompts", "export",
    ]  # fmt: skip
    rows = [
        [
            answer.verdict.domain,
            answer.device,
            answer.badge,
            f"{answer.verdict.best[0]:,}",
            f"{1 - answer.verdict.best[0] / answer.verdict.full_size:.1%}",
            str(answer.verdict.best[1]),
            f"{answer.tokens_per_s:,.1f}",
            _interval(answer.verdict.over_full),
            _interval(answer.verdict.over_plain),
            f"{answer.coverage:.3f}",
            told(answer.j_per_token, ".3g"),
            str(answer.verdict.num_prompts),
            answer.export_command,
        ]
        for answer in answers
    ]
    caption = (
        "What to use on every device: measured, of the optimum as it was decoded; 95% bootstrap intervals "
        "over prompts, resampled as pairs."
    )
    return Grid(caption, headings, rows, [False] * 3 + [True] * 9 + [False])


def _interval(estimate) -> str:
    return "" if estimate is None else told_interval(estimate.value, estimate.ci_low, estimate.ci_high, ".2f")
