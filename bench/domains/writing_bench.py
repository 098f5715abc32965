"""`writing`: the English half of WritingBench (arXiv 2503.05244)."""

import json
from pathlib import Path

from bench.domains.prompt import Prompt, user_prompt

# Queries in English quote a little Chinese at most; the other half is Chinese throughout.
_MAX_CJK_SHARE = 0.02
_FIRST_CJK = "\u2e80"


def load(path: Path) -> list[Prompt]:
    """English prompts from `benchmark_all.jsonl`."""
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    return [user_prompt(f"writing/{row['index']}", row["query"]) for row in rows if _is_english(row["query"])]


def _is_english(text: str) -> bool:
    return text.isascii() or sum(char >= _FIRST_CJK for char in text) <= _MAX_CJK_SHARE * len(text)
