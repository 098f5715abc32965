"""The section of a report that has published GPUs beside measured runs, and its figure."""

from dataclasses import replace
from itertools import cycle

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from bench.analysis.beside import MEASURED, PUBLISHED, ROUND_COLUMNS, PublishedBeside, round_sentence
from bench.report.drawing import INK, K_LABEL, captioned, log_k_axis, outlined_sizes
from bench.report.sections import Paragraph, Points, Section, Table, section

_STEPS = ("pair", "device", "origin", "engine", "version", "dtype", "vocab_size", "draft_step_ms", "basis")

_ERRORS = (
    "pair", "device", "engine", "version", "part", "setting", "execution", "vocab_size", "measured_ms",
    "published_ms", "error",
)  # fmt: skip

ABSENT = (
    "Published kernel latencies of ten GPUs are not on this machine: make gpus downloads them (82 MB), and "
    "then they stand here."
)


def with_published(report: Section, found: PublishedBeside | None) -> Section:
    """The report with a section of published GPUs before its method.

    Args:
        report: of measured runs.
        found: what tables say of their drafts; None where there are no tables on this machine.
    """
    parts = list(report.parts)
    place = next((n for n, part in enumerate(parts) if getattr(part, "anchor", "") == "method"), len(parts))
    beside = section("published", "And on GPUs that others measured?", Paragraph(ABSENT), label="Published")
    if found is not None:
        beside = _section(found)
    return replace(report, parts=[*parts[:place], *([beside] if beside else []), *parts[place:]])


def _section(found: PublishedBeside) -> Section | None:
    rows = found.steps
    ends = rows[rows["vocab_size"].isin([rows["vocab_size"].min(), rows["vocab_size"].max()])]
    return section(
        "published",
        "And on GPUs that others measured?",
        Paragraph(
            f"Draft steps composed from kernels as published in {found.origin}, measured by others; launch "
            "gaps are not in them. No round was measured there."
        ),
        step_figure.picture(found),
        Paragraph(round_sentence(found.rounds)),
        Table("Tables against runs of the same GPU: published over measured, less 1.", found.errors, _ERRORS),
        section(
            "published-more",
            "More: draft steps in numbers",
            Table("A chained draft step with the smallest and the largest measured size.", ends, _STEPS),
            Table(
                "Rounds composed of parts timed on their own against probed ones.",
                found.rounds,
                ROUND_COLUMNS,
            ),
            Points(found.reasons),
            is_folded=True,
        ),
        label="Published",
    )


@captioned(
    "published_steps",
    "What a chained draft step takes of that with the largest size, at batch 1. Solid: measured inside "
    "rounds, with launches (medians; intervals are in the tables above). Dashed: composed from kernels that "
    "others published, of vLLM, without launches.",
)
def step_figure(found: PublishedBeside) -> Figure | None:
    """Relative draft steps by size; a panel per pair."""
    pairs = list(dict.fromkeys(found.steps["pair"]))
    if not pairs:
        return None
    figure, grid = plt.subplots(1, len(pairs), figsize=(6.6 * len(pairs), 4.6), squeeze=False, sharey=True)
    names = sorted(found.steps.loc[found.steps["origin"] == PUBLISHED, "device"].unique())
    colors = dict(zip(names, sns.color_palette("husl", len(names)), strict=True))
    for axis, pair in zip(grid[0], pairs, strict=True):
        of_pair, markers = found.steps[found.steps["pair"] == pair], cycle("osD^vP*X")
        for (origin, device), rows in of_pair.groupby(["origin", "device"], sort=False):
            x, y = rows["vocab_size"], rows["share_of_full"]
            if origin == MEASURED:
                axis.plot(x, y, color=INK, marker=next(markers), label=f"{device} (measured here)", zorder=5)
            else:
                axis.plot(x, y, color=colors[device], linestyle="--", label=device)
        log_k_axis(axis, outlined_sizes(int(of_pair["vocab_size"].max())))
        axis.set_xlim(left=0.8 * of_pair["vocab_size"].min())
        axis.set_ylim(bottom=0)
        axis.set_xlabel(K_LABEL)
        axis.set_title(pair, fontsize="small")
    grid[0, 0].set_ylabel("draft step over that of the largest size")
    grid[0, -1].legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.suptitle("Measured here and published by others: what a smaller head leaves", fontsize="medium")
    figure.tight_layout()
    return figure
