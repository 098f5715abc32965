"""The tables of one run, as figures and pages take them."""

from dataclasses import dataclass

import pandas as pd

# Column of the summary, its heading, how its values are written, and the name of its interval's columns.
_DECODED = (
    ("vocab_size", "k", ",.0f", None),
    ("draft_length", "gamma", ".0f", None),
    ("tokens_per_s", "tokens/s", ".1f", None),
    ("speedup_vs_full_vocab", "x full vocabulary", ".2f", "speedup_vs_full_vocab"),
    ("speedup_vs_autoregressive", "x plain", ".2f", "speedup_vs_autoregressive"),
    ("predicted_tokens_per_s", "predicted tokens/s", ".1f", "predicted"),
    ("prediction_error", "prediction error", "+.1%", None),
    ("mean_acceptance_length", "mean acceptance length", ".3f", None),
    ("acceptance_rate", "acceptance rate", ".3f", None),
    ("coverage_heldout", "coverage held-out", ".3f", None),
    ("draft_step_ms", "draft step ms", ".3f", None),
    ("lm_head_ms", "LM head ms", ".3f", None),
    ("verify_ms", "verify ms", ".2f", None),
    ("identical_output_frac", "identical outputs", ".0%", None),
    ("energy_j_per_token", "J/token", ".3g", None),
)


@dataclass(frozen=True)
class Tables:
    """Tidy tables of a run.

    Attributes:
        latency: of every part of a round, by vocabulary size or draft length.
        summary: one row for everything that was decoded.
        cross: acceptance and speed of each domain with the vocabulary chosen on each source.
    """

    latency: pd.DataFrame
    summary: pd.DataFrame
    cross: pd.DataFrame


def decoded_table(summary: pd.DataFrame, domain: str) -> pd.DataFrame:
    """What was decoded of a domain as texts for readers; a column without any value is left out.

    Args:
        summary: as `bench.report.summary.summary_frame`.
        domain: one of its domains.
    """
    rows = summary[summary["domain"] == domain]
    shown = {"what": rows["role"].str.replace("+", ", ").tolist()}
    for name, heading, form, ends in _DECODED:
        if ends is None:
            shown[heading] = [told(value, form) for value in rows[name]]
        else:
            triples = zip(rows[name], rows[f"{ends}_ci_low"], rows[f"{ends}_ci_high"], strict=True)
            shown[heading] = [told_interval(*triple, form) for triple in triples]
    return pd.DataFrame({heading: texts for heading, texts in shown.items() if any(texts)}, dtype=object)


def told(value: object, form: str) -> str:
    """A value as text; nothing where there is none."""
    return "" if value is None or pd.isna(value) else format(value, form)  # type: ignore[call-overload]


def told_interval(value: object, low: object, high: object, form: str) -> str:
    """A value with its interval as text; nothing where there is no value."""
    return f"{told(value, form)} [{told(low, form)}, {told(high, form)}]" if told(value, form) else ""
