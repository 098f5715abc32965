"""What a selection says: its folder read back, and its outcome in words."""

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

_MOST_LOST = 20  # tokens that are named

_FAR_BELOW = 0.1  # a script or language that is covered so much less than its domain is a warning

# Groups of tokens that `select.keep_scripts` cannot keep, or that always are.
_NO_SCRIPT = ("special tokens", "Inherited", "Unknown")


@dataclass(frozen=True)
class SelectionFindings:
    """What a selection left.

    Attributes:
        folder: where it is.
        summary: `summary.json`.
        coverage: one row per k.
        cross: coverage by (vocabulary chosen on, held-out responses of).
        lost: most frequent tokens left out.
        trials: of the estimator.
        pareto: frontier of coverage against FLOPs.
        frequencies: counts of the tokens seen, falling.
        others: held-out coverage of other domains at every k by this ranking, by name.
    """

    folder: Path
    summary: dict[str, Any]
    coverage: pd.DataFrame
    cross: pd.DataFrame
    lost: pd.DataFrame
    trials: pd.DataFrame
    pareto: pd.DataFrame
    frequencies: np.ndarray
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The exported k."""
        return self.summary["exported_vocab_size"]

    @property
    def judged(self) -> str:
        """The column of `coverage` that the utility was computed with."""
        return "coverage_train" if self.summary["coverage_of"] == "ranking" else "coverage_heldout"

    @property
    def row(self) -> dict[str, Any]:
        """The outcome as a row of a table."""
        names = {
            "domain": "domain", "exported_vocab_size": "vocab_size", "latency_reduction": "flops_reduction",
            "utility": "utility", "tpe_vocab_size": "tpe_vocab_size", "tpe_regret": "tpe_regret",
        }  # fmt: skip
        ends = ("coverage_heldout", "coverage_heldout_ci_low", "coverage_heldout_ci_high")
        kept = {new: self.summary[old] for old, new in names.items()}
        return kept | {name: self.summary[name] for name in ends}

    def verdict(self) -> str:
        """The outcome in one or two sentences."""
        s = self.summary
        share = 1 - self.size / s["target_vocab_size"]
        whose = "the target's own answers" if s["responses"] == "target" else "the data set's responses"
        covered = f"{s['coverage_train']:.1%} of the tokens that ranked it (optimistic)"
        if s["coverage_heldout"] is not None:
            low, high = s["coverage_heldout_ci_low"], s["coverage_heldout_ci_high"]
            ends = "" if low is None else f" [{low:.1%}, {high:.1%}]"
            covered = f"{s['coverage_heldout']:.1%} of held-out tokens{ends}, {covered}"
        lost = self.left_out()
        forced = "" if self.size == s["vocab_size"] else f" (asked for; the optimum is {s['vocab_size']:,})"
        return (
            f"k = {self.size:,}{forced}: {share:.1%} fewer tokens than the target's "
            f"{s['target_vocab_size']:,}. It covers {covered}, and saves {s['latency_reduction']:.1%} of the "
            f"FLOPs per token of a draft with all of them. {self._ceiling()}Counted: {whose}."
            + (f" {lost}" if lost else "")
        )

    def _ceiling(self) -> str:
        """What a draft that is trimmed already can reach at most; selections of older versions do not say."""
        s = self.summary
        if s.get("draft_vocab_size", s["target_vocab_size"]) == s["target_vocab_size"]:
            return ""
        reached = s["coverage_ceiling_heldout"]
        share, of = (s["coverage_ceiling_train"], "") if reached is None else (reached, "held-out ")
        return (
            f"The draft as it is has {s['draft_vocab_size']:,} tokens, which cover {share:.1%} of "
            f"{of}tokens, "
            f"and {s['flops_saved_of_draft']:.1%} of its FLOPs are saved. "
        )

    def left_out(self) -> str:
        """Responses that the target's chat template does not show; empty if it shows everything."""
        s = self.summary
        num_tokens = s["num_tokens_left_out"] + s["num_tokens_left_out_heldout"]
        if not num_tokens:
            return ""
        fields = ", ".join(
            f"{name} ({of['num_tokens'] + of['num_tokens_heldout']:,} tokens in {of['num_turns']:,} turns)"
            for name, of in s["left_out"].items()
        )
        rest = ""
        if s["coverage_heldout_of_all_written"] is not None:
            rest = (
                f"; {s['coverage_heldout_of_all_written']:.1%} of everything written on the held-out side is "
                "known to be covered"
            )
        return (
            f"The target's chat template does not show {num_tokens:,} tokens of what was written, so they "
            f"are not counted: {fields}{rest}."
        )

    def counted(self) -> list[str]:
        """What was read and counted, and what was set aside and why."""
        s = self.summary
        rows, silent = s["rows"], s["num_conversations_without_response"]
        used = s["num_conversations"] + s["num_conversations_heldout"]
        lines = [f"{rows['num_read']:,} rows were read, {used:,} of them had a response that was counted."]
        if silent:
            lines.append(f"{silent:,} had none.")
        for reason, seen in rows["set_aside"].items():
            lines.append(f"{seen['num_rows']:,} set aside: {reason} (first: {seen['first']}).")
        for what, seen in rows["in_part"].items():
            lines.append(f"{seen['num_rows']:,} used without {what} (first: {seen['first']}).")
        lost = self.left_out()
        return [*lines, lost] if lost else lines

    @property
    def scripts(self) -> pd.DataFrame:
        """Coverage of each script, by share of the text; empty in selections of older versions."""
        return pd.DataFrame(self.summary.get("coverage_by_script", []))

    @property
    def languages(self) -> pd.DataFrame:
        """Coverage of each language that rows of the data state, by share of the text."""
        return pd.DataFrame(self.summary.get("coverage_by_language", []))

    @property
    def has_several_groups(self) -> bool:
        """Whether the text has letters of several scripts, or several languages."""
        letters = {*self.scripts.get("script", [])} - {*_NO_SCRIPT, "Common"}
        return len(letters) > 1 or len(self.languages) > 1

    def silenced(self) -> list[str]:
        """Scripts and languages that the vocabulary covers much less than their domain."""
        found = []
        for kind, table in (("script", self.scripts), ("language", self.languages)):
            for row in table.to_dict("records"):
                found += self._far_below(kind, row)
        return found

    def _far_below(self, kind: str, row: Mapping[Hashable, Any]) -> list[str]:
        name = row[kind]
        is_held_out = row["num_tokens_heldout"] > 0
        side, of_domain = ("heldout", "coverage_heldout") if is_held_out else ("ranking", "coverage_train")
        covered, whole = row[f"coverage_{side}"], self.summary[of_domain]
        if whole is None or whole - covered <= _FAR_BELOW:
            return []
        text = "held-out tokens" if is_held_out else "tokens in the responses that ranked it"
        mend = "rank on more of such text, or raise select.min_coverage or select.vocab_size"
        if kind == "script" and name not in _NO_SCRIPT:
            mend = f"select.keep_scripts=[{name}] keeps every token of it"
        return [
            f"The vocabulary covers {covered:.1%} of the {row[f'num_tokens_{side}']:,} {text} of the {kind} "
            f"{name}, {100 * (whole - covered):.0f} points less than of all text. A draft with it often "
            f"proposes wrong tokens there: {mend}."
        ]

    def about_groups(self) -> str:
        """How scripts and languages are determined."""
        scripts = (
            "A token has the Unicode script of most of its letters; tokens of single bytes and of accents "
            "have the script of the characters that they write. `Common` are spaces, digits, punctuation "
            "and emoji."
        )
        stated = "Languages are what the rows of the data say; they are not detected."
        none = "The rows of the data state no language (domain.columns.language); languages are not detected."
        kept = self.summary.get("keep_scripts")
        kept_too = f" Every token of {', '.join(kept)} is kept (select.keep_scripts)." if kept else ""
        return f"{scripts} {stated if len(self.languages) else none}{kept_too}"

    def losses(self) -> str:
        """The most frequent tokens that are cut."""
        if not len(self.lost):
            return "No token that was counted is outside of the vocabulary."
        shown = self.lost.head(_MOST_LOST)
        tokens = ", ".join(f"`{_visible(str(r.token))}` ({r.count_heldout})" for r in shown.itertuples())
        return (
            f"The {len(shown)} most frequent tokens outside of the vocabulary, with their occurrences in "
            f"held-out responses (`lost_tokens.csv` has more): {tokens}."
        )

    def method(self) -> list[str]:
        """How k was chosen."""
        s = self.summary
        ranking = ", ".join(f"{name} {weight:g}" for name, weight in s["ranking"].items())
        tpe = (
            f"TPE ({len(self.trials)} trials) found k = {s['tpe_vocab_size']:,}, {s['tpe_regret']:.2g} below "
            "the optimum."
            if s["tpe_vocab_size"]
            else f"TPE: {s['tpe_note']}."
        )
        return [
            f"Tokens are ranked by frequency in {s['num_tokens']:,} tokens of {s['num_conversations']:,} "
            f"conversations ({s['num_distinct_tokens']:,} distinct); ranked on: {ranking}. "
            f"{s['num_must_keep']} tokens are always kept.",
            f"U(k) = {s['coverage_weight']:g} C(k) + {1 - s['coverage_weight']:g} R(k) under C(k) >= "
            f"{s['min_coverage']:g}, with C(k) of the {s['coverage_of'].replace('_', '-')} responses, over "
            f"every k from {s['k_min']:,} to {s['k_max']:,} in steps of {s['multiple']} (arXiv 2603.05210).",
            "R(k) = 1 - F(k)/F(V), F the draft's FLOPs per drafted token. FLOPs are not time: `make bench` "
            "measures.",
            tpe,
        ]


def read_selection(folder: Path, others: Mapping[str, np.ndarray] | None = None) -> SelectionFindings:
    """Reads `folder` as `task=select` wrote it.

    Args:
        folder: of the selection.
        others: held-out coverage of other domains at every k by this ranking, for its figure.
    """
    with np.load(folder / "token_counts.npz", allow_pickle=False) as file:
        frequencies = np.sort(file["counts"])[::-1]
    return SelectionFindings(
        folder,
        json.loads((folder / "summary.json").read_text("utf-8")),
        pd.read_parquet(folder / "coverage.parquet"),
        pd.read_csv(folder / "cross_domain.csv", index_col=0),
        pd.read_csv(folder / "lost_tokens.csv", keep_default_na=False),
        pd.read_csv(folder / "tpe_trials.csv"),
        pd.read_csv(folder / "pareto.csv"),
        frequencies,
        others or {},
    )


def _visible(token: str) -> str:
    return repr(token)[1:-1].replace("`", "\u02cb").replace(" ", "\u00b7")
