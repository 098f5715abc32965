"""What there is to know about one domain of a run, in sentences, all of it from the records."""

import pandas as pd

from bench.analysis.run import Run
from bench.records import FailureRecord


def domain_facts(run: Run, summary: pd.DataFrame, domain: str) -> list[str]:
    """How it was ranked, replayed, predicted and held against its baselines.

    Args:
        run: the run.
        summary: as `bench.analysis.summary.summary_frame`.
        domain: one of the run's.
    """
    source = run.plans[domain].source
    rows = summary[(summary["domain"] == domain) & (summary["draft_length"] > 0)]
    replays = list(run.replays[domain][source].values())
    pass_ms = sum(r.replay_ms for r in replays) / len(replays)
    num_probed, num_decoded = run.num_probed(domain), len(run.prompts[domain])
    probed = f"{num_probed} of them probed"
    probed += " and decoded" if num_probed == num_decoded else f", {num_decoded} decoded"
    facts = [
        f"{len(replays)} held-out prompts replayed, {probed}"
        f"{_in_processes(run, domain)}. Ranked on {source}: "
        f"{run.rankings[source].num_seen:,} distinct tokens in the target's own answers to ranking prompts; "
        "larger sizes are filled up with the lowest unseen ids.",
        f"Replay: {pass_ms:.0f} ms a prompt for all sizes and draft lengths; {_against_replay(run, rows)}",
        _prediction(rows),
    ]
    repeats = sum(r.num_repeats for r in run.probes[domain])
    repeats += sum(r.num_repeats for by_prompt in run.decodes[domain].values() for r in by_prompt.values())
    if repeats:
        facts.append(
            f"Other work on the machine disturbed {repeats} measurements, which were repeated; let nothing "
            "run beside a measurement."
        )
    return facts


def _prediction(rows: pd.DataFrame) -> str:
    """How far predicted speeds are off, and what they are predictions of."""
    errors, shares = rows["prediction_error"].abs(), rows["replayed_frac"].dropna()
    text = (
        f"Prediction: mean absolute error {errors.mean():.1%}, largest {errors.max():.1%}, over {len(rows)} "
        "decoded drafts; rounds by the replay, their time by the probes among the decodes."
    )
    if shares.empty or shares.min() == 1:
        return text
    apart = rows["replayed_text_error"].abs().mean()
    return (
        f"{text} The replay says the rounds of the first {shares.mean():.0%} of the tokens, where decodes "
        "wrote the replayed texts; from there on rounds are counted as decoded, and their time alone is "
        f"predicted. Against the speed of the replayed texts as a whole, the decodes are {apart:.1%} off."
    )


def _in_processes(run: Run, domain: str) -> str:
    count = run.num_processes(domain)
    return "" if count == 1 else f" in each of {count} fresh processes"


def baseline_facts(run: Run) -> list[tuple[str, str]]:
    """Domain and sentence of every comparison of the plain loop with `transformers.generate`."""
    return [
        (
            baseline.domain,
            f"The plain loop is {baseline.generate_ms / baseline.plain_ms:.2f}x as fast as "
            f"transformers.generate on the same weights ({baseline.num_tokens} tokens, prefill included).",
        )
        for baseline in run.baselines
    ]


def origin(run: Run) -> str:
    """What a run was measured with, and in how many sessions."""
    environment = run.environment
    runner = environment.get("target_runner")
    text = (
        f"{environment['dtype']}; torch {environment['packages']['torch']}, transformers "
        f"{environment['packages']['transformers']}; started {environment['started_at']}"
    )
    notes = "".join(f" {note[0].upper()}{note[1:]}." for note in environment.get("notes", []))
    text += f"; target through the {runner} runner" if runner else ""
    return f"{text}{_compiled(run)}.{notes}{sessions(run)}"


def _compiled(run: Run) -> str:
    """Whether rounds ran compiled on a CPU; empty where nothing else could."""
    reason = (run.environment.get("decoding") or {}).get("not_compiled")
    if reason:
        return f"; rounds were not compiled: {reason}"
    return "; rounds were compiled" if run.execution == "compiled" else ""


def sessions(run: Run) -> str:
    """In how many sessions a run was measured; empty for one."""
    return (
        f" Measured in {run.num_sessions} sessions: the run was cut off and resumed."
        if run.num_sessions > 1
        else ""
    )


def failure_fact(failure: FailureRecord) -> str:
    """One case that could not be measured."""
    case = " ".join(str(part) for part in failure.case if part is not None)
    return f"{case}: {failure.error}: {failure.message}"


def _against_replay(run: Run, rows: pd.DataFrame) -> str:
    """How far decodes accepted what the replay says."""
    gap = (rows["predicted_mean_acceptance_length"] - rows["mean_acceptance_length"]).abs().mean()
    if run.is_sampled:
        return (
            "answers are sampled, so the replay gives the expectation: its mean acceptance lengths and those "
            f"of the decodes, which write other texts, differ by {gap:.2f} on average."
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
