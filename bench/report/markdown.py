"""The run's report as one Markdown page."""

from pathlib import Path

import pandas as pd

from bench.report.frames import Run
from bench.report.verdict import Verdict

_COLUMNS = {
    "vocab_size": "k",
    "draft_length": "gamma",
    "coverage_heldout": "coverage held-out",
    "coverage_train": "coverage ranking",
    "draft_step_ms": "draft step ms",
    "lm_head_ms": "LM head ms",
    "verify_ms": "verify ms",
    "mean_acceptance_length": "mean acceptance length",
    "tokens_per_s": "tokens/s",
    "speedup_vs_autoregressive": "x plain",
    "speedup_vs_full_vocab": "x full vocabulary",
    "interval": "95% interval",
    "identical_output_frac": "identical outputs",
}


def write_report(
    run: Run, summary: pd.DataFrame, verdicts: list[Verdict], figures: list[Path], path: Path
) -> None:
    """Writes the page; every number in it comes from the records."""
    environment = run.environment
    lines = [
        f"# How small should the draft vocabulary be? {environment['pair']} on {environment['device_name']}",
        "",
        *[f"- **{v.sentence()}**" for v in verdicts],
        "",
        f"{environment['dtype']}; torch {environment['packages']['torch']}, transformers "
        f"{environment['packages']['transformers']}; started {environment['started_at']}; target through the "
        f"{environment['target_runner']} runner.",
        "",
    ]
    lines += [f"![{figure.stem}]({figure.parent.name}/{figure.name})" for figure in figures]
    for domain in run.decodes:
        lines += ["", f"## {domain}", "", *_facts(run, domain), "", _table(summary, domain)]
    lines += ["", "## Reading it", "", _METHOD]
    path.write_text("\n".join(lines), "utf-8")


_METHOD = """\
- Every prompt was decoded by every variant in seeded random order in one process: ratios are free of drift.
- tokens/s counts the tokens after the first, over the time from the end of the target's prefill; the draft's
  own prefill is in that time.
- Speedups are total throughput over the same prompts, with 95% bootstrap intervals over prompts, resampled as
  pairs. The best k is chosen and judged on the same prompts.
- Mean acceptance length counts tokens per target pass, bonus token included.
- Latencies are medians inside real rounds.
- Held-out coverage is over the target's answers to prompts that the ranking never saw.
- A prompt whose answer ended with its first token is left out: decoding it takes no time.
- The row with gamma 0 is plain decoding.
"""


def _facts(run: Run, domain: str) -> list[str]:
    vocab = next(iter(run.vocabs[domain].values()))
    facts = [
        f"Ranked on {vocab.num_ranking_tokens:,} tokens of the target's own answers to ranking prompts "
        f"({vocab.num_ranking_distinct:,} distinct); larger sizes are filled up with the lowest unseen ids."
    ]
    for baseline in run.baselines:
        if baseline.domain == domain:
            ratio = baseline.generate_ms / baseline.plain_ms
            facts.append(
                f"The plain loop is {ratio:.2f}x as fast as `transformers.generate` on the same weights "
                f"({baseline.num_tokens} tokens, prefill included)."
            )
    return facts


def _table(summary: pd.DataFrame, domain: str) -> str:
    rows = summary[summary["domain"] == domain].copy()
    low, high = rows["speedup_vs_full_vocab_ci_low"], rows["speedup_vs_full_vocab_ci_high"]
    rows["interval"] = [f"{a:.3f}-{b:.3f}" if pd.notna(a) else "" for a, b in zip(low, high, strict=True)]
    table = rows[list(_COLUMNS)].rename(columns=_COLUMNS)
    return table.to_markdown(index=False, floatfmt=".3f", missingval="")
