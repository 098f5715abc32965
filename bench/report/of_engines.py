"""The planned variants in another engine: one section of the report of a run, with its figure."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from bench.analysis.engine_parts import PARTS
from bench.analysis.findings import Findings
from bench.analysis.metrics import METRICS, format_roles, format_variant
from bench.report.drawing import PALETTE, captioned, title_figure
from bench.report.sections import Points, Section, Table, section

_SPEEDS = (
    "role", "concurrency", "vocab_size", "draft_length", "tokens_per_s", "speedup_vs_full_vocab",
    "speedup_vs_autoregressive", "own_speedup_vs_full_vocab", "mean_acceptance_length",
    "replayed_mean_acceptance_length", "identical_output_frac", "num_processes",
)  # fmt: skip

_SETTINGS = ("engine", "temperature", "context_tokens", *_SPEEDS)

_LATENCIES = (
    "engine", "temperature", "context_tokens", "role", "concurrency", "vocab_size", "inter_token_p50_ms",
    "inter_token_p90_ms", "inter_token_p99_ms", "first_token_p50_ms",
)  # fmt: skip

_COUNTS = (
    "engine", "temperature", "context_tokens", "role", "concurrency", "vocab_size", "num_drafts",
    "num_draft_tokens", "num_accepted_tokens", "accepted_by_position", "replayed_by_position",
)  # fmt: skip

_ROUNDS = ("engine", "plain_step_ms", "full_round_ms", "trimmed_round_ms", "saved_ms", "saved_share")

_PARTS = ("engine", "role", "vocab_size", "draft_length", "round_ms", *PARTS, "num_rounds")

_OVER_PROCESSES = "95% intervals over fresh processes, ratios of neighbouring ones."


def engines_section(found: Findings, prefix: str = "", is_brief: bool = False) -> Section | None:
    """In the other engine that decoded too; None where none did."""
    served = found.served
    if served.empty:
        return None
    name = f"{served['engine'].iloc[0]} {served['engine_version'].iloc[0]}"
    return section(
        f"{prefix}engines",
        f"Does the gain hold in {name}?",
        *(_of_domain(found, domain, prefix, is_brief) for domain in served["domain"].unique()),
        parts_figure.picture(found, found.sample_sizes, prefix) if len(found.engine_parts) else None,
        label="Other engine",
    )


def _of_domain(found: Findings, domain: str, prefix: str, is_brief: bool) -> Section | None:
    rows = found.served[found.served["domain"] == domain]
    is_of_run = rows["temperature"].isna() & rows["context_tokens"].isna()
    of_engine = {
        engine: rows[is_of_run & (rows["engine"] == engine)] for engine in dict.fromkeys(rows["engine"])
    }
    caption = f"output tokens/s with so many requests at a time, prefills included; {_OVER_PROCESSES}"
    speeds = [
        Table(f"{engine}: {caption}", part, _SPEEDS, is_brief=is_brief) for engine, part in of_engine.items()
    ]
    further = f"Sampled answers, and prompts that come after others; {_OVER_PROCESSES}"
    per_round = "One request at a time: a step of plain decoding, and a round of both drafts."
    arrivals = "An arrival brings the tokens of one step or round."
    counts = "Counts of the engine over all processes; by position beside the replay of the same prompts."
    return section(
        f"{prefix}engines-{domain}",
        domain,
        *speeds,
        Points(found.engine_facts(domain)),
        Points(found.part_facts(domain), is_brief, mark=""),
        Table(further, rows[~is_of_run], _SETTINGS),
        section(
            f"{prefix}engines-{domain}-more",
            "More: rounds and their parts, latency of tokens, what the engine counted",
            Table(per_round, _only(found.engine_rounds, domain), _ROUNDS),
            Table(_PARTS_CAPTION, _only(found.engine_parts, domain), _PARTS),
            Table(arrivals, rows, _LATENCIES),
            Table(counts, rows[rows["draft_length"] > 0], _COUNTS),
            is_folded=True,
        ),
    )


_PARTS_CAPTION = (
    "A round with one request at a time (medians). The other engine's parts are timed by the scopes that "
    "it has for profilers, in each process after everything else."
)


def _only(frame: pd.DataFrame, domain: str) -> pd.DataFrame:
    return frame[frame["domain"] == domain] if len(frame) else frame


@captioned(
    "engine_rounds",
    "Median round with one request at a time. Trimming shortens the draft's LM head; how much that gains "
    "depends on everything else in the round. k logits into V: what an engine pays for a trimmed vocabulary.",
)
def parts_figure(found: Findings) -> Figure:
    """Rounds of every engine and variant, stacked by part."""
    parts = found.engine_parts
    domains = list(dict.fromkeys(parts["domain"]))
    height = 0.45 * parts.groupby("domain").size().max() + 1.6
    figure, axes = plt.subplots(
        1, len(domains), figsize=(5.6 * len(domains) + 0.6, height), squeeze=False, sharex=True
    )
    colors = sns.color_palette(PALETTE, len(PARTS))
    for axis, domain in zip(axes[0], domains, strict=True):
        rows = parts[parts["domain"] == domain].iloc[::-1]
        names, base = _names(rows), np.zeros(len(rows))
        for color, part in zip(colors, PARTS, strict=True):
            # What is left between steps can come out below 0 by noise, and is then not drawn.
            widths = rows[part].clip(lower=0).to_numpy(dtype=float)
            axis.barh(names, widths, left=base, color=color, label=METRICS[part].heading)
            base += widths
        axis.set_title(domain)
        axis.set_xlabel("median time of a round (ms)")
        axis.tick_params(axis="y", labelsize="small")
    axes[0, -1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return title_figure(figure, found.run.environment, "What a round consists of in each engine")


def _names(rows: pd.DataFrame) -> Sequence[str]:
    columns = ("engine", "role", "vocab_size", "draft_length")
    return [
        f"{engine}, {format_roles(role)}\n{format_variant(k, gamma)}"
        for engine, role, k, gamma in zip(*(rows[column] for column in columns), strict=True)
    ]
