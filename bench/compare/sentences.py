"""What a comparison says, in words: who is first, what to use where, and what cannot be compared."""

import pandas as pd


def verdicts(best: pd.DataFrame) -> list[str]:
    """One sentence per case and domain: the best size of every device, and the fastest of them.

    Args:
        best: of `bench.compare.frames.best_frame`.
    """
    several = best["case"].nunique() > 1
    found = []
    for (case, domain), rows in best.groupby(["case", "domain"], sort=True):
        where = f"{domain} ({case})" if several else domain
        found.append(f"{where}:{_fastest(rows)} Predicted fastest: {_sizes(rows)}.{_frugal(rows)}")
    return found


def _sizes(rows: pd.DataFrame) -> str:
    """Best (k, gamma) and the devices that have it."""
    devices: dict[str, list[str]] = {}
    for _, row in rows.iterrows():
        interval = f"[{row['vocab_size_ci_low']:,}, {row['vocab_size_ci_high']:,}]"
        text = f"k = {row['vocab_size']:,} {interval}, gamma = {row['draft_length']}"
        devices.setdefault(text, []).append(row["device"])
    return "; ".join(f"{text} on {', '.join(names)}" for text, names in devices.items())


def _fastest(rows: pd.DataFrame) -> str:
    if len(rows) < 2:
        return ""
    ordered = rows.sort_values("tokens_per_s", ascending=False)
    first, second = ordered.iloc[0], ordered.iloc[1]
    return (
        f" {first['device']} is fastest as decoded, with {first['tokens_per_s']:,.1f} tokens/s, "
        f"{first['tokens_per_s'] / second['tokens_per_s']:.2f}x as fast as {second['device']}."
    )


def _frugal(rows: pd.DataFrame) -> str:
    known = rows[rows["tokens_per_joule"].notna()]
    if known.empty:
        reasons = ", ".join(sorted(set(rows["energy_reason"])))
        return f" Energy per token: {reasons}."
    first = known.sort_values("tokens_per_joule", ascending=False).iloc[0]
    return f" Most tokens per joule: {first['device']}, {first['tokens_per_joule']:.3g}."


def transfers(transferred: pd.DataFrame) -> list[str]:
    """How well latency models moved to other devices, by case, and why others could not be."""
    found = []
    for case, rows in transferred[transferred["mean_error"].notna()].groupby("case", sort=True):
        worst = rows.sort_values("mean_error").iloc[-1]
        found.append(
            f"{case}: a device's latency model, moved by the data sheets, predicts the draft step of another "
            f"with a mean error of {rows['mean_error'].median():.1%} (median of {len(rows)} ordered pairs of "
            f"devices), at worst {worst['mean_error']:.1%}, from {worst['source']} to {worst['target']}."
        )
    reasons = sorted(set(transferred.loc[transferred["mean_error"].isna(), "reason"]))
    return found + ([f"Not every latency model could be moved: {'; '.join(reasons)}."] if reasons else [])
