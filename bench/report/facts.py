"""What there is to know about one domain of a run, in sentences, all of it from the records."""

import pandas as pd

from bench.records import FailureRecord
from bench.report.energy import token_energy
from bench.report.frames import Run
from bench.surface.choice import OPTIMUM


def domain_facts(run: Run, summary: pd.DataFrame, domain: str) -> list[str]:
    """How it was ranked, replayed, predicted and held against its baselines.

    Args:
        run: the run.
        summary: as `bench.report.summary.summary_frame`.
        domain: one of the run's.
    """
    source = run.plans[domain].source
    rows = summary[(summary["domain"] == domain) & (summary["draft_length"] > 0)]
    replays = [run.replays[domain][source][prompt] for prompt in run.prompts[domain]]
    errors, pass_ms = rows["prediction_error"].abs(), sum(r.replay_ms for r in replays) / len(replays)
    facts = [
        f"{len(replays)} held-out prompts. Ranked on {source}: {run.rankings[source].num_seen:,} distinct "
        "tokens in the target's own answers to ranking prompts; larger sizes are filled up with the lowest "
        "unseen ids.",
        f"Replay: {pass_ms:.0f} ms a prompt for all sizes and draft lengths; {_held(run, rows)}",
        f"Prediction: mean absolute error {errors.mean():.1%}, largest {errors.max():.1%}, over {len(rows)} "
        "decoded drafts.",
        energy_fact(run, domain),
    ]
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
                f"The plain loop is {ratio:.2f}x as fast as transformers.generate on the same weights "
                f"({baseline.num_tokens} tokens, prefill included)."
            )
    return facts


def energy_fact(run: Run, domain: str) -> str:
    """Energy per token of the optimum, or why it is not known."""
    energy = token_energy(run, domain, run.role_key(domain, OPTIMUM))
    if energy.j_per_token is None:
        return f"Energy per token: not known ({energy.reason})."
    spread = "" if energy.spread is None else f", {energy.spread:.0%} apart in two windows"
    return (
        f"Energy per token of the optimum: {energy.j_per_token:.3g} J ({energy.method}{spread}; idle power "
        "included)."
    )


def origin(run: Run) -> str:
    """What a run was measured with, and in how many sessions."""
    environment = run.environment
    text = (
        f"{environment['dtype']}; torch {environment['packages']['torch']}, transformers "
        f"{environment['packages']['transformers']}; started {environment['started_at']}; target through the "
        f"{environment['target_runner']} runner."
    )
    if run.num_sessions > 1:
        text += f" Measured in {run.num_sessions} sessions: the run was cut off and gone on with."
    return text


def failure_fact(failure: FailureRecord) -> str:
    """One case that could not be measured."""
    case = " ".join(str(part) for part in failure.case if part is not None)
    return f"{case}: {failure.error}: {failure.message}"


def _held(run: Run, rows: pd.DataFrame) -> str:
    """How far decoding bore the replay out."""
    gap = (rows["predicted_mean_acceptance_length"] - rows["mean_acceptance_length"]).abs().mean()
    if run.is_sampled:
        return (
            "answers are sampled, so that it tells what to expect: its mean acceptance lengths and those of "
            f"the decodes, which write other texts, differ by {gap:.2f} on average."
        )
    num_decodes = int(rows["num_prompts"].sum())
    num_other = num_decodes - round(float((rows["identical_output_frac"] * rows["num_prompts"]).sum()))
    if num_other:
        # Where one token differs, every round after it is another one.
        return (
            f"{num_other} of {num_decodes} decodes wrote another text than plain decoding, as rounding in "
            f"{run.environment['dtype']} depends on how many tokens are verified at once; mean acceptance "
            f"lengths as replayed and as decoded differ by {gap:.2f} on average."
        )
    return (
        f"{int(rows['replay_deviating_rounds'].sum())} of the decodes' rounds accepted another number of "
        "tokens than replayed."
    )
