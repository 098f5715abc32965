"""`code`: HumanEval (arXiv 2107.03374), 164 Python functions to complete."""

import gzip
import json
from pathlib import Path

from bench.domains.prompt import Prompt, user_prompt


def load(path: Path) -> list[Prompt]:
    """Prompts from `HumanEval.jsonl.gz`, asked the way a chat user would."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [
        user_prompt(
            row["task_id"], f"Complete this Python function.\n\n```python\n{row['prompt'].strip()}\n```"
        )
        for row in rows
    ]
