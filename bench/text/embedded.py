"""The three embedded data sets: BFCL, HumanEval and WritingBench."""

import gzip
import json
from pathlib import Path
from typing import Any

from bench.text.conversation import Prompt, user_prompt

# `function_calling`: the single-turn categories of BFCL v4 (Berkeley Function-Calling Leaderboard).

CATEGORIES = (
    "simple_python",
    "simple_java",
    "simple_javascript",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)


def load_bfcl(folder: Path) -> list[Prompt]:
    """Prompts from the folder of `BFCL_v4_*.json` files; each prompt contains its functions."""
    return [
        _to_prompt(row) for category in CATEGORIES for row in read_rows(folder / f"BFCL_v4_{category}.json")
    ]


def ground_truth(folder: Path) -> dict[str, str]:
    """Responses by prompt id, from the folder of ground-truth files: the calls as JSON.

    An argument has a list of acceptable values; the first one is used. An empty first value marks an optional
    argument, which is left out. One call is an object, several calls are a list, as the prompt requests.
    """
    rows = [row for category in CATEGORIES for row in read_rows(folder / f"BFCL_v4_{category}.json")]
    return {row["id"]: _to_response(row["ground_truth"]) for row in rows}


def _to_response(calls: list[dict[str, dict[str, list]]]) -> str:
    written = [
        {"name": name, "arguments": {key: _plain(value) for key, value in _first(arguments).items()}}
        for call in calls
        for name, arguments in call.items()
    ]
    return json.dumps(written[0] if len(written) == 1 else written, ensure_ascii=False)


def _first(values_by_key: dict[str, Any]) -> dict[str, Any]:
    # One row has a plain value where all others have a list.
    listed = {key: v if isinstance(v, list) else [v] for key, v in values_by_key.items()}
    return {key: values[0] for key, values in listed.items() if values and values[0] != ""}


def _plain(value: Any) -> Any:
    # Fields of an object, also of an object in a list, have lists of acceptable values; deeper fields do not.
    if isinstance(value, dict):
        return _first(value)
    if isinstance(value, list):
        return [_first(entry) if isinstance(entry, dict) else entry for entry in value]
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of one category."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def _to_prompt(row: dict[str, Any]) -> Prompt:
    question = "\n".join(turn["content"] for turn in row["question"][0])
    functions = "\n".join(json.dumps(function) for function in row["function"])
    text = (
        f"You can call these functions:\n{functions}\n\n{question}\n\n"
        "Answer with the function call as JSON, with its name and arguments, then explain it."
    )
    return user_prompt(row["id"], text, group=_group(row["id"], question))


def _group(row_id: str, question: str) -> str:
    """The group of a prompt: prompts of one group ask the same question.

    Ids of the live categories are `live_simple_<n>-<group>-<variant>`; variants reword one question. In the
    other categories the same question occurs with other distractors.
    """
    _, _, tail = row_id.rpartition("_")
    parts = tail.split("-")
    if len(parts) == 3:
        return f"{row_id.removesuffix(tail)}{parts[1]}"
    return " ".join(question.lower().split())


# `code`: HumanEval (arXiv 2107.03374), 164 Python functions to complete.


def load_human_eval(path: Path) -> list[Prompt]:
    """Prompts from `HumanEval.jsonl.gz`, phrased as a chat user would."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [
        user_prompt(
            row["task_id"], f"Complete this Python function.\n\n```python\n{row['prompt'].strip()}\n```"
        )
        for row in rows
    ]


# `writing`: the English half of WritingBench (arXiv 2503.05244).

# English queries quote a little Chinese at most; the other half is entirely Chinese.
_MAX_CJK_SHARE = 0.02

_FIRST_CJK = "\u2e80"


def load_writing_bench(path: Path) -> list[Prompt]:
    """English prompts from `benchmark_all.jsonl`."""
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    return [user_prompt(f"writing/{row['index']}", row["query"]) for row in rows if _is_english(row["query"])]


def _is_english(text: str) -> bool:
    return text.isascii() or sum(char >= _FIRST_CJK for char in text) <= _MAX_CJK_SHARE * len(text)
