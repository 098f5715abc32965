"""Tiny pairs in folders, for what the embedded pair does not cover."""

import json
from pathlib import Path
from typing import Any

from tests.zoo.draft_rows import RUNS
from tests.zoo.targets import Row

DECODER_LM = Row("draft", "llama", {"num_hidden_layers": 2, "head_dim": 8, "tie_word_embeddings": True})

EAGLE_3 = next(row for row in RUNS if row.name == "SafeAILab, head and embedding of the target")

# Sizes of vocabularies and efforts for 97 tokens and random weights.
_EFFORT = (
    "experiment=smoke", "vocab.sizes=[full,40,20]", "measure.num_prompts=2", "measure.max_new_tokens=16",
    "measure.draft_lengths=[1,2]", "measure.bootstrap_samples=100", "timing.budget_s=0.05",
)  # fmt: skip


def write_pair(folder: Path, target: Row, draft: Any) -> list[str]:
    """Writes both and a domain of words; returns the arguments that measure them."""
    for row, name in ((target, "target"), (draft, "draft")):
        (folder / name).mkdir(parents=True)
        row.write(folder / name)
    text = folder / "text.jsonl"
    rows = [{"prompt": " ".join(f"w{4 + (7 * i + j) % 90}" for j in range(9))} for i in range(24)]
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "pair=custom", f"pair.target={folder / 'target'}", f"pair.draft={folder / 'draft'}",
        "domain=jsonl", f"domain.path={text}", *_EFFORT,
    ]  # fmt: skip


def write_transformers_pair(folder: Path) -> list[str]:
    """A target that this package's own pass does not run."""
    return write_pair(folder, Row("target", "phi"), DECODER_LM)
