"""The run's report as one Markdown page."""

from pathlib import Path

import pandas as pd

from bench.fit.judge import Judgement, sentence
from bench.records import FailureRecord
from bench.report.doubts import doubts
from bench.report.energy import token_energy
from bench.report.fit_figures import fit_table
from bench.report.frames import Run
from bench.report.tables import Tables
from bench.report.verdict import Verdict
from bench.surface.choice import OPTIMUM

_COLUMNS = {
    "role": "what",
    "vocab_size": "k",
    "draft_length": "gamma",
    "coverage_heldout": "coverage held-out",
    "draft_step_ms": "draft step ms",
    "lm_head_ms": "LM head ms",
    "verify_ms": "verify ms",
    "mean_acceptance_length": "mean acceptance length",
    "tokens_per_s": "tokens/s",
    "predicted": "predicted tokens/s",
    "prediction_error": "error",
    "against_plain": "x plain",
    "against_full": "x full vocabulary",
    "identical_output_frac": "identical outputs",
}

_CAPTIONS = {
    "speedup": "What was decoded, against plain decoding.",
    "surface": "Predicted speed; the star is the fastest, the diamond the paper's k*, and inside the red "
    "border nothing is significantly more than 1% slower than the fastest.",
    "acceptance": "Tokens per target pass for every size, and the coverage that stands in for it.",
    "position": "How far into a draft the target agrees.",
    "draft_latency": "A chained draft step by vocabulary size.",
    "round_latency": "What every round costs beside its draft steps.",
    "isolated": "A part on its own may find its weights in the cache (warm); inside a round it does not.",
    "prediction": "Every decoded draft: predicted from replay and probes against measured.",
    "fit_lm_head": "Latency models of the LM head.",
    "fit_draft_step": "Latency models of a chained draft step.",
    "fit_verify": "Latency models of a verification.",
    "cross_domain": "Vocabularies used on other domains than the one that chose them.",
}

_METHOD = """\
- Acceptance of every vocabulary size and draft length is replayed: the draft, with its whole head, is
  unrolled over the target's own held-out answers; for each place and depth the sizes that would draft the
  target's token form one interval, and walking the rounds over those intervals counts what decoding would
  accept.
  Sampled answers tell the expected acceptance instead, on a grid of sizes: a token of theirs came from an
  accepted draft with probability min(1, draft / target).
- Latency of a round's parts is probed inside real rounds, between the decodes, on the same prompts.
- Predicted tokens/s = tokens / sum of (draft prefill + rounds x round latency). Its 95% interval and the set
  of sizes that are not significantly more than 1% slower than the fastest are percentile bootstrap over
  prompts, of acceptance and latency together.
- What is decoded is chosen from a pilot: plain; the full vocabulary; the predicted optimum; the paper's k*
  (the optimum of its utility, arXiv 2603.05210) with its best draft length; the smallest size that loses no
  acceptance; and another draft length as a check. All share every prompt, in seeded random order. The
  optimum of the pilot may differ from that of the surface shown here, which all probes went into.
- tokens/s counts the tokens after the first, over the time from the end of the target's prefill; the draft's
  own prefill is in that time. Speedups are total throughput over the same prompts, with 95% bootstrap
  intervals over prompts, resampled as pairs.
- Mean acceptance length counts tokens per target pass, bonus token included.
- Held-out coverage is over the target's answers to prompts that the ranking never saw.
- A prompt whose answer ended with its first token is left out: decoding it takes no time.
"""


def write_report(
    run: Run,
    tables: Tables,
    verdicts: list[Verdict],
    judgement: Judgement | None,
    figures: list[Path],
    path: Path,
) -> None:
    """Writes the page; every number in it comes from the records."""
    environment = run.environment
    lines = [
        f"# How small should the draft vocabulary be? {environment['pair']} on {environment['device_name']}",
        "",
    ]
    for verdict in verdicts:
        lines += [f"- **{verdict.sentence()}**", *[f"  - {detail}" for detail in verdict.details()]]
    lines += [
        "",
        f"{environment['dtype']}; torch {environment['packages']['torch']}, transformers "
        f"{environment['packages']['transformers']}; started {environment['started_at']}; target through the "
        f"{environment['target_runner']} runner.",
    ]
    if run.num_sessions > 1:
        lines += ["", f"Measured in {run.num_sessions} sessions: the run was cut off and gone on with."]
    if found := doubts(run):
        lines += ["", "## Doubts", "", *[f"- {doubt.what}: {doubt.remedy}." for doubt in found]]
    if run.failures:
        lines += ["", "## Not measured", "", *[f"- {_told(failure)}" for failure in run.failures]]
    for figure in figures:
        caption = _CAPTIONS[figure.stem]
        lines += ["", f"![{caption}]({figure.parent.name}/{figure.name})", "", caption]
    for domain in run.decodes:
        lines += ["", f"## {domain}", "", *_facts(run, tables, domain), "", _table(tables.summary, domain)]
    lines += _fits(judgement) if judgement else []
    lines += ["", "## Reading it", "", _METHOD]
    path.write_text("\n".join(lines), "utf-8")


def _fits(judgement: Judgement) -> list[str]:
    """Which latency model holds here, and what each would choose."""
    lines = ["", "## Latency models"]
    for name, judged in judgement.components.items():
        table = fit_table(judged).drop(columns=["aicc", "measured_saving"])
        lines += ["", f"**{name}**: {sentence(judgement, name)}", ""]
        lines.append(table.to_markdown(index=False, floatfmt=".3g", missingval=""))
    return lines


def _told(failure: FailureRecord) -> str:
    case = " ".join(str(part) for part in failure.case if part is not None)
    return f"{case}: {failure.error}: {failure.message}"


def _facts(run: Run, tables: Tables, domain: str) -> list[str]:
    source = run.plans[domain].source
    rows = tables.summary[(tables.summary["domain"] == domain) & (tables.summary["draft_length"] > 0)]
    replays = [run.replays[domain][source][prompt] for prompt in run.prompts[domain]]
    errors, pass_ms = rows["prediction_error"].abs(), sum(r.replay_ms for r in replays) / len(replays)
    facts = [
        f"{len(replays)} held-out prompts. Ranked on {source}: {run.rankings[source].num_seen:,} distinct "
        "tokens in the target's own answers to ranking prompts; larger sizes are filled up with the lowest "
        "unseen ids.",
        f"Replay: {pass_ms:.0f} ms a prompt for all sizes and draft lengths; {_held(run, rows)}",
        f"Prediction: mean absolute error {errors.mean():.1%}, largest {errors.max():.1%}, over {len(rows)} "
        "decoded drafts.",
    ]
    facts.append(_energy(run, domain))
    repeats = sum(r.num_repeats for r in run.probes[domain])
    repeats += sum(r.num_repeats for by_prompt in run.decodes[domain].values() for r in by_prompt.values())
    if repeats:
        facts.append(
            f"{repeats} measurements were held up by something else on the machine and taken again; let "
            "nothing run beside a measurement."
        )
    for baseline in run.baselines:
        if baseline.domain == domain:
            ratio = baseline.generate_ms / baseline.plain_ms
            facts.append(
                f"The plain loop is {ratio:.2f}x as fast as `transformers.generate` on the same weights "
                f"({baseline.num_tokens} tokens, prefill included)."
            )
    return ["- " + fact for fact in facts]


def _energy(run: Run, domain: str) -> str:
    best = run.role_key(domain, OPTIMUM)
    energy = token_energy(run, domain, best)
    if energy.j_per_token is None:
        return f"Energy per token: not known ({energy.reason})."
    return (
        f"Energy per token of the optimum: {energy.j_per_token:.3g} J ({energy.method}; idle power included)."
    )


def _held(run: Run, rows: pd.DataFrame) -> str:
    """How far decoding bore the replay out."""
    if run.is_sampled:
        gaps = (rows["predicted_mean_acceptance_length"] - rows["mean_acceptance_length"]).abs()
        return (
            f"answers are sampled, so that it tells what to expect: its mean acceptance lengths and those of "
            f"the decodes, which write other texts, differ by {gaps.mean():.2f} on average."
        )
    return (
        f"{int(rows['replay_deviating_rounds'].sum())} of the decodes' rounds accepted another number of "
        "tokens than replayed."
    )


def _table(summary: pd.DataFrame, domain: str) -> str:
    rows = summary[summary["domain"] == domain].copy()
    rows["role"] = rows["role"].str.replace("+", ", ")
    rows["predicted"] = _interval(rows, "predicted_tokens_per_s", "predicted", ".1f")
    rows["against_plain"] = _interval(rows, "speedup_vs_autoregressive", "speedup_vs_autoregressive", ".2f")
    rows["against_full"] = _interval(rows, "speedup_vs_full_vocab", "speedup_vs_full_vocab", ".2f")
    table = rows[list(_COLUMNS)].rename(columns=_COLUMNS)
    return table.to_markdown(index=False, floatfmt=".3f", missingval="")


def _interval(rows: pd.DataFrame, value: str, ends: str, form: str) -> list[str]:
    triples = zip(rows[value], rows[f"{ends}_ci_low"], rows[f"{ends}_ci_high"], strict=True)
    return [f"{v:{form}} [{a:{form}}, {b:{form}}]" if pd.notna(v) else "" for v, a, b in triples]
