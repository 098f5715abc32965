"""Coverage of each script and each language: a vocabulary that covers a domain can still silence one."""

from collections.abc import Mapping
from typing import Any

from bench.text.counting import SideCounts
from bench.text.scripts import TokenScripts
from bench.vocab.coverage import coverage
from bench.vocab.draft_vocab import DraftVocab, IntArray


def coverage_by_script(sides: SideCounts, scripts: TokenScripts, chosen: DraftVocab) -> list[dict[str, Any]]:
    """A row for each script that was counted, most frequent first."""
    ranked, held_out = (
        scripts.split(side.total(), in_context)
        for side, in_context in zip((sides.ranking, sides.held_out), sides.in_context, strict=True)
    )
    return _rows("script", ranked, held_out, chosen)


def coverage_by_language(sides: SideCounts, chosen: DraftVocab) -> list[dict[str, Any]]:
    """A row for each language that the rows of the data state, most frequent first."""
    ranked, held_out = ({name: counts[i] for name, counts in sides.languages.items()} for i in (0, 1))
    return _rows("language", ranked, held_out, chosen)


def _rows(
    kind: str, ranked: Mapping[str, IntArray], held_out: Mapping[str, IntArray], chosen: DraftVocab
) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys([*held_out, *ranked]):
        row: dict[str, Any] = {kind: name}
        for side, counts in (("heldout", held_out), ("ranking", ranked)):
            total = sum(int(of_name.sum()) for of_name in counts.values())
            own = counts.get(name)
            num_tokens = 0 if own is None else int(own.sum())
            row |= {
                f"num_tokens_{side}": num_tokens,
                f"share_{side}": num_tokens / total if total else None,
                f"coverage_{side}": coverage(own, chosen) if own is not None else None,
            }
        rows.append(row)
    return sorted(rows, key=lambda row: (-row["num_tokens_heldout"], -row["num_tokens_ranking"], row[kind]))
