"""Result files of every tool, INVENTED by hand in the layout that tools write; they are no measurements."""

import copy
import json
from pathlib import Path
from typing import Any

VLLM: dict[str, Any] = {
    "date": "20260102-030405",
    "endpoint_type": "openai",
    "backend": "openai",
    "label": "openai",
    "model_id": "target",
    "tokenizer_id": "target",
    "num_prompts": 20,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 4,
    "duration": 10.0,
    "completed": 20,
    "failed": 0,
    "total_input_tokens": 400,
    "total_output_tokens": 1000,
    "request_throughput": 2.0,
    "request_goodput": None,
    "output_throughput": 100.0,
    "total_token_throughput": 140.0,
    "max_output_tokens_per_s": 130.0,
    "max_concurrent_requests": 4,
    "rtfx": 0.0,
    "latencies": [1.0, 1.2],
    "queue_times": [0.0, 0.1],
    "spec_decode_acceptance_rate": 55.0,
    "spec_decode_acceptance_length": 2.1,
    "spec_decode_num_drafts": 400,
    "spec_decode_draft_tokens": 800,
    "spec_decode_accepted_tokens": 440,
    "spec_decode_per_position_acceptance_rates": [0.7, 0.4],
    "mean_ttft_ms": 31.0,
    "median_ttft_ms": 30.0,
    "std_ttft_ms": 2.0,
    "p99_ttft_ms": 50.0,
    "mean_tpot_ms": 20.0,
    "median_tpot_ms": 19.0,
    "std_tpot_ms": 1.0,
    "p99_tpot_ms": 25.0,
    "mean_itl_ms": 41.0,
    "median_itl_ms": 40.0,
    "std_itl_ms": 3.0,
    "p99_itl_ms": 60.0,
}

# With --save-detailed: three requests, times in s.
VLLM_DETAILED = {
    **VLLM,
    "ttfts": [0.01, 0.02, 0.03],
    "itls": [[0.1, 0.2], [0.3, 0.4, 0.5], []],
    "errors": ["", "", ""],
    "generated_texts": ["a", "b", "c"],
}

SGLANG: dict[str, Any] = {
    "tag": None,
    "backend": "sglang",
    "dataset_name": "sharegpt",
    "request_rate": float("inf"),
    "max_concurrency": 8,
    "sharegpt_output_len": None,
    "random_input_len": 1024,
    "random_output_len": 1024,
    "random_range_ratio": 0.0,
    "server_info": {
        "version": "0.5.23",
        "model_path": "target",
        "speculative_algorithm": "EAGLE3",
        "speculative_num_steps": 3,
        "speculative_eagle_topk": 1,
        "speculative_num_draft_tokens": 4,
        "speculative_draft_model_path": "trimmed",
        "dtype": "auto",
        "internal_states": [{"avg_spec_accept_length": 2.5}],
    },
    "duration": 5.0,
    "completed": 16,
    "total_input_tokens": 320,
    "total_input_text_tokens": 320,
    "total_input_vision_tokens": 0,
    "total_output_tokens": 1500,
    "total_output_tokens_retokenized": 1490,
    "request_throughput": 3.2,
    "input_throughput": 64.0,
    "output_throughput": 300.0,
    "total_throughput": 364.0,
    **{
        f"{at}_{what}_ms": value
        for what, median in (("e2e_latency", 900.0), ("ttft", 40.0), ("tpot", 11.0), ("itl", 10.0))
        for at, value in (
            ("mean", median), ("median", median), ("std", 1.0), ("p90", median * 2), ("p95", median * 3),
            ("p99", median * 4),
        )
    },
    "concurrency": 7.5,
    "accept_length": 2.5,
    "max_output_tokens_per_s": 320.0,
    "max_concurrent_requests": 9,
}  # fmt: skip


def _distribution(**values: float) -> dict[str, Any]:
    """What GuideLLM says of one metric of requests that succeeded."""
    percentiles = {at: values.get(at, 0.0) for at in ("p001", "p01", "p50", "p90", "p99", "p999")}
    inner = {"mean": 0.0, "count": 12, "total_sum": 0.0, **values, "percentiles": percentiles}
    return {"successful": inner, "errored": None, "incomplete": None, "total": inner}


GUIDELLM_BENCHMARK: dict[str, Any] = {
    "type_": "generative_benchmark",
    "config": {
        "strategy": {"type_": "concurrent", "worker_count": 4, "max_concurrency": 4, "streams": 4,
                     "rampup_duration": 0.0},
        "backend": {"kind": "openai_http", "model": "target"},
        "warmup": {},
    },
    "scheduler_state": {},
    "scheduler_metrics": {},
    "metrics": {
        "request_totals": {"successful": 12, "errored": 0, "incomplete": 2, "total": 14},
        "request_concurrency": _distribution(mean=3.8),
        "output_token_count": _distribution(total_sum=600.0),
        "output_tokens_per_second": _distribution(mean=75.0),
        "time_to_first_token_ms": _distribution(p50=25.0, p90=30.0, p99=45.0),
        "inter_token_latency_ms": _distribution(p50=12.0, p90=14.0, p99=15.0),
        "slo_attainment": 0.5,
    },
    "requests": {"successful": [], "incomplete": [], "errored": [], "total": None},
    "warnings": [],
    "start_time": 1.0,
    "end_time": 9.0,
    "duration": 8.0,
    "warmup_duration": 0.0,
    "cooldown_duration": 0.0,
}  # fmt: skip

GUIDELLM: dict[str, Any] = {
    "metadata": {"version": 2, "guidellm_version": "0.8.1", "python_version": "3.12", "platform": "Linux"},
    "config": {},
    "benchmarks": [GUIDELLM_BENCHMARK],
    "conclusions": [],
}


def _metric(unit: str, avg: float, **values: float) -> dict[str, Any]:
    return {"unit": unit, "avg": avg, **values}


AIPERF: dict[str, Any] = {
    "schema_version": "1.4",
    "aiperf_version": "0.13.0",
    "request_count": _metric("requests", 30.0),
    "error_request_count": _metric("requests", 0.0),
    "benchmark_duration": _metric("sec", 6.0),
    "total_osl": _metric("tokens", 1800.0),
    "output_token_throughput": _metric("tokens/sec", 300.0),
    "time_to_first_token": _metric("ms", 41.0, p50=40.0, p90=50.0, p99=60.0, count=30),
    "inter_token_latency": _metric("ms", 9.0, p50=8.0, p90=9.0, p99=10.0, count=30),
    "inter_chunk_latency": _metric("ms", 17.0, p50=16.0, p90=18.0, p99=20.0, count=800),
    "goodput": _metric("requests/sec", 4.0),
    "total_spec_decode_steps": _metric("count", 1000.0),
    "total_accepted_draft_tokens": _metric("tokens", 1200.0),
    "total_draft_tokens": _metric("tokens", 3000.0),
    "pooled_spec_decode_acceptance_histogram": {"0": 300, "1": 300, "2": 300, "3": 100},
    "telemetry_data": {"summary": {}, "endpoints": {"e": {"gpus": {"0": {"gpu_name": "NVIDIA H100"}}}}},
    "input_config": {
        "models": {"items": [{"name": "target"}]},
        "phases": [
            {"name": "warmup", "type": "concurrency", "concurrency": 1},
            {"name": "profiling", "type": "concurrency", "concurrency": 16},
        ],
    },
    "was_cancelled": False,
    "is_complete": True,
    "error_summary": [],
}

SPECDEC_TIMING: dict[str, Any] = {
    "Output TPS": 250.0,
    "Output TPS/gpu": 250.0,
    "E2E Request Time": {"min": "1.0", "max": "2.0", "mean": "1.5", "std": "0.1", "quantiles": {}},
    "TTFT Time": {"min": "0.01", "max": "0.1", "mean": "0.02", "std": "0.0",
                  "quantiles": {"0.25": "0.0150", "0.5": "0.0200", "0.75": "0.0300"}},
    "Request Generation Step Time": {"min": "0.0", "max": "0.1", "mean": "0.02", "std": "0.0",
                                     "quantiles": {"0.25": "0.0100", "0.5": "0.0120", "0.75": "0.0130"}},
    "Request Generation Tokens Per Second": {"mean": "100.0", "quantiles": {}},
    "Number of Output Tokens": {"mean": "50.0", "quantiles": {}},
}  # fmt: skip

SPECDEC_ACCEPTANCE: dict[str, Any] = {
    "Request_AL": {"0": {"0": 2.0, "1": 2.4}, "1": {"0": 2.2}},
    "Average_AL": 2.2,
    "Acceptance_Length_Histogram": {"1": 20, "2": 50, "3": 30},
    "Conditional_Acceptance_Rate": {"1": 1.0, "2": 0.8, "3": 0.375},
    "Joint_Acceptance_Rate": {"1": 1.0, "2": 0.8, "3": 0.3},
}

SPECDEC_CONFIGURATION: dict[str, Any] = {
    "engine": "VLLM",
    "engine_version": "0.32.0",
    "gpu": "NVIDIA H200",
    "model_dir": "target",
    "draft_model_dir": "trimmed",
    "speculative_algorithm": "EAGLE3",
    "draft_length": 3,
    "block_size": None,
    "concurrency": 32,
    "dataset": "speed",
    "specdec_bench_version": "0.40.0",
}


def write(folder: Path, name: str, value: Any) -> Path:
    """A file of one JSON value."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
    return path


def write_specdec(folder: Path, **changed: Any) -> Path:
    """A folder of specdec_bench; `changed` are its files by their names without ".json"."""
    files = {
        "timing": [SPECDEC_TIMING],
        "acceptance_rate": [SPECDEC_ACCEPTANCE],
        "configuration": SPECDEC_CONFIGURATION,
        **changed,
    }
    for name, value in files.items():
        if value is not None:
            write(folder, f"{name}.json", value)
    return folder


def changed(value: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A copy with other fields; None removes one."""
    found = copy.deepcopy(value) | fields
    return {name: item for name, item in found.items() if item is not None or name not in fields}
