"""A synthetic run with hand-chosen timings: every figure of a report can be computed in the head."""

import json
from pathlib import Path

import yaml

from bench.records import BaselineRecord, DecodeRecord, RecordWriter, VocabRecord

FULL = 100
PROMPTS = ("p1", "p2")
ANSWER = [10, 11, 12, 13, 14, 15, 16, 17, 1]  # nine tokens, eight after the first


def decode(
    prompt: str, vocab_size: int, draft_length: int, accepted: list[int], verify_ms: float, head_ms: float
):
    """Laps: select 0.5 ms, layer 2 ms, extend 3 ms, the rest as given."""
    rounds = len(accepted)
    if draft_length == 0:
        laps = {"verify": [verify_ms] * 8}
    else:
        laps = {
            "draft_prefill": [4.0],
            "lm_head": [head_ms] * draft_length * rounds,
            "select": [0.5] * draft_length * rounds,
            "layer": [2.0] * (draft_length - 1) * rounds,
            "verify": [verify_ms] * rounds,
            "other": [0.0] * rounds,
            "extend": [3.0] * (rounds - 1),
        }
        laps = {name: times for name, times in laps.items() if times}
    total = sum(map(sum, laps.values()))
    return DecodeRecord(
        "code", prompt, vocab_size, draft_length, 1, 20, list(ANSWER), accepted, total, total + 1, laps
    )


def write_run(folder: Path, head_ms: dict[int, float] | None = None, draft_length: int = 3) -> Path:
    """Two prompts, plain decoding at 20 ms a token, and drafts of 100 and 10 tokens."""
    head_ms = head_ms or {FULL: 5.5, 10: 0.5}
    folder.mkdir(parents=True, exist_ok=True)
    config = {"measure": {"bootstrap_samples": 200, "seed": 0, "draft_lengths": [draft_length]}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {
        "pair": "synthetic-pair",
        "device_name": "synthetic device",
        "dtype": "float32",
        "full_vocab_size": FULL,
        "started_at": "2026-01-01T00:00:00+00:00",
        "target_runner": "lean",
        "packages": {"torch": "0", "transformers": "0"},
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    writer = RecordWriter(folder)
    writer.append(VocabRecord("code", FULL, None, 1.0, 50, 20, "full"))
    writer.append(VocabRecord("code", 10, [1, 10, 11, 12, 13, 14, 20, 21, 22, 23], 0.8, 50, 20, "ten"))
    for prompt in PROMPTS:
        writer.append(decode(prompt, FULL, 0, [], 20.0, 0))
        # Eight tokens after the first in two rounds of 3 + 1.
        writer.append(decode(prompt, FULL, draft_length, [draft_length, draft_length], 24.0, head_ms[FULL]))
        writer.append(decode(prompt, 10, draft_length, [draft_length, draft_length], 24.0, head_ms[10]))
    writer.append(BaselineRecord("code", "p1", 9, 100.0, 120.0))
    writer.close()
    return folder
