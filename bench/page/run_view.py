"""One run with everything that is computed of it once, for its part of a page."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bench.fit.judge import Judgement
from bench.report.drawing import Drawings
from bench.report.figures import run_drawings
from bench.report.fit_tables import decision_table, fit_table
from bench.report.fit_tables import size_table as fit_size_table
from bench.report.latency import latency_frame
from bench.report.render import judged
from bench.report.summary import held_out_tokens, summary_frame
from bench.report.surfaces import Surfaces, cross_frame
from bench.report.tables import Tables


@dataclass(frozen=True)
class RunView:
    """A run whose details are shown.

    Attributes:
        label: of its device.
        surfaces: of the run.
        prefix: of the names of its figures and tables; empty where the page shows one run.
    """

    label: str
    surfaces: Surfaces
    prefix: str

    @cached_property
    def tables(self) -> Tables:
        """As figures take them."""
        run = self.surfaces.run
        return Tables(latency_frame(run), summary_frame(self.surfaces), cross_frame(self.surfaces))

    @cached_property
    def judgement(self) -> Judgement | None:
        """Of its latency models; None for a run that does not say what to judge by."""
        return judged(self.surfaces)

    def drawings(self) -> Drawings:
        """By file name."""
        found = run_drawings(self.surfaces, self.tables, self.judgement)
        return {self.prefix + name: drawing for name, drawing in found.items()}

    def files(self) -> dict[str, pd.DataFrame]:
        """Tables by file name."""
        found = {
            "summary": self.tables.summary,
            "latency": self.tables.latency,
            "cross_domain": self.tables.cross,
            "sizes": pd.concat([size_table(self.surfaces, d) for d in self.surfaces.run.decodes]),
        }
        if self.judgement:
            for name, component in self.judgement.components.items():
                found[f"fit_{name}"] = fit_table(component)
                found[f"fit_{name}_sizes"] = fit_size_table(component)
                if len(decisions := decision_table(component)):
                    found[f"fit_{name}_decisions"] = decisions
        return {self.prefix + name: table for name, table in found.items()}


def size_table(surfaces: Surfaces, domain: str) -> pd.DataFrame:
    """Coverage, acceptance and predicted speed of the sizes that were probed, at the best draft length."""
    run, surface = surfaces.run, surfaces.of(domain)
    sizes = np.unique([*surfaces.latency[domain].sizes.tolist(), surface.best[0]])
    ranking = run.rankings[run.plans[domain].source]
    columns = [surface.column(int(size)) for size in sizes]
    rows = surface.tokens_per_s[:, columns].argmax(axis=0)
    return pd.DataFrame({
        "domain": domain,
        "vocab_size": sizes,
        "coverage_heldout": ranking.coverage_of(held_out_tokens(run, domain))[sizes - 1],
        "coverage_ranking": ranking.coverage()[sizes - 1],
        "draft_length": np.array(surface.draft_lengths)[rows],
        "mean_acceptance_length": surface.mean_acceptance_length[rows, columns],
        "acceptance_rate": surface.acceptance_rate[rows, columns],
        "predicted_tokens_per_s": surface.tokens_per_s[rows, columns],
        "predicted_ci_low": surface.ci_low[rows, columns],
        "predicted_ci_high": surface.ci_high[rows, columns],
        "in_confidence_set": surface.is_confident[rows, columns],
    })  # fmt: skip
