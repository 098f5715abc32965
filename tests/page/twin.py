"""A SYNTHETIC second GPU, which does not exist: the example run with other times, for tests only."""

import json
import shutil
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "results" / "example"
NAME = "SYNTHETIC GPU"


def write_twin(folder: Path, factor: float = 0.1, watts: float = 200.0) -> Path:
    """What the example run would be on a device that takes `factor` of its time, at constant power."""
    folder.mkdir(parents=True)
    shutil.copy(EXAMPLE / "config.yaml", folder)
    environment = json.loads((EXAMPLE / "environment.json").read_text("utf-8"))
    environment |= {"device_name": NAME, "host": "synthetic", "cuda": {"uuid": "GPU-synthetic"}}
    environment["hardware"]["memory_bytes_per_s"] /= factor
    (folder / "environment.json").write_text(json.dumps(environment))
    lines, plans = [], []
    found = [json.loads(line) for line in (EXAMPLE / "records.jsonl").read_text("utf-8").splitlines()]
    decoded = {record["prompt_id"] for record in found if record["kind"] == "decode"}
    for record in found:
        if record["kind"] == "replay" and record["prompt_id"] not in decoded:
            continue  # this device replayed fewer prompts, which is faster to report
        for field in ("decode_ms", "wall_ms", "plain_ms", "generate_ms", "device_ms", "laps_ms"):
            if field in record:
                record[field] = _scaled(record[field], factor)
        plans += [record] if record["kind"] == "plan" else []
        lines.append(json.dumps(record))
    lines += [
        json.dumps({"schema": 2, "kind": "steady", "domain": plan["domain"], "vocab_size": k,
                    "draft_length": gamma, "num_tokens": 100, "start_s": 1.0, "end_s": 11.0})
        for plan in plans for k, gamma, _ in plan["variants"]
    ]  # fmt: skip
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    samples = [
        json.dumps({"time_s": i / 10, "power_w": watts, "sm_clock_mhz": 1500, "utilization": 0.9})
        for i in range(150)
    ]
    samples.append(json.dumps({"ended": "the run ended", "unsupported": {}}))
    (folder / "telemetry.jsonl").write_text("\n".join(samples) + "\n")
    return folder


def _scaled(value, factor: float):
    if isinstance(value, dict):
        return {name: _scaled(item, factor) for name, item in value.items()}
    return [item * factor for item in value] if isinstance(value, list) else value * factor
