"""Result files of `vllm bench serve --save-result`, read as vLLM 0.32.0 writes them.

(`vllm/benchmarks/serve.py`.) One JSON object, or one a line with `--append-result`. Times of single
requests are in it with `--save-detailed` only; without, the file has the percentiles of
`--metric-percentiles`, by default the 99th.
"""

import math
from typing import Any

from bench.errors import ResultFileError
from bench.imported.fields import ARRIVALS, Fields, known_only, quantiles
from bench.imported.result import Result

TOOL = "vllm bench serve"

# Names, dates and totals that follow from other fields, and what has no bearing on speed.
_OF_NO_INTEREST = (
    "date", "endpoint_type", "label", "tokenizer_id", "request_throughput", "total_token_throughput",
    "mean_ttft_ms", "std_ttft_ms", "mean_itl_ms", "std_itl_ms", "mean_tpot_ms", "median_tpot_ms",
    "std_tpot_ms", "p99_tpot_ms", "input_lens", "output_lens", "latencies", "start_times", "generated_texts",
    "max_output_tokens_per_s", "max_concurrent_requests", "rtfx", "spec_decode_acceptance_rate",
    "total_input_tokens", "queue_times", "p90_tpot_ms", "p50_tpot_ms", "p50_itl_ms", "p50_ttft_ms",
)  # fmt: skip


def is_one(value: Any) -> bool:
    """Whether a JSON value is a result of this tool."""
    return isinstance(value, dict) and {"endpoint_type", "tokenizer_id", "num_prompts"} <= value.keys()


def read(value: dict[str, Any], where: str) -> Result:
    """One benchmark.

    Raises:
        ResultFileError: fields are missing or damaged, or it is no benchmark of generation.
    """
    fields = Fields(value, where)
    if "output_throughput" not in value and "input_sequence_throughput" in value:
        raise ResultFileError(f"{where}: a benchmark of embeddings, in which no token is generated")
    num_requests, num_prompts = fields.needed_count("completed"), fields.count("num_prompts")
    failed = fields.count("failed")
    if failed is None and num_prompts is not None:  # as before vLLM 0.11
        failed = max(num_prompts - num_requests, 0)
    errors = fields.items("errors")
    rounds, tau, accepted = _speculation(fields)
    drafted = fields.count("spec_decode_draft_tokens")
    # A server names as many positions as it may draft.
    gamma, notes = len(accepted) or None, []
    if gamma and rounds and drafted is not None and drafted != rounds * gamma:
        notes.append(f"Of at most {gamma} tokens, {drafted / rounds:.2f} were drafted in a round on average.")
    rate = fields.get("request_rate")
    concurrency = fields.count("max_concurrency")
    if concurrency is None:
        notes.append(
            "All requests were sent at once."
            if rate in ("inf", None)
            else f"{rate} requests/s were sent, with no limit of concurrency."
        )
    elif rate not in ("inf", None):
        notes.append(f"No more than {rate} requests/s were sent.")
    burstiness = fields.number("burstiness")
    if burstiness not in (None, 1.0) and rate != "inf":
        notes.append(f"Arrivals have a burstiness of {burstiness:g}.")
    return Result(
        tool=TOOL,
        num_requests=num_requests,
        tokens_per_s=fields.needed("output_throughput"),
        engine=_engine(fields.text("backend")),
        model=fields.text("model_id"),
        draft_length=gamma,
        concurrency=concurrency,
        num_failed=failed,
        num_output_tokens=fields.count("total_output_tokens"),
        duration_s=fields.number("duration"),
        inter_token_ms=_times(fields, "itl"),
        inter_token_of=ARRIVALS,
        first_token_ms=_times(fields, "ttft"),
        mean_acceptance_length=tau,
        accepted_by_position=accepted,
        num_rounds=rounds,
        left_out=fields.left_out(_OF_NO_INTEREST),
        notes=notes,
        first_error=next((str(error) for error in errors if error), None),
    )


def _engine(backend: str | None) -> str | None:
    """Backends that are named after an engine; OpenAI's protocol, the default, is spoken by many."""
    known = {"vllm": "vllm", "vllm-pooling": "vllm", "tgi": "tgi", "tensorrt-llm": "trtllm"}
    return known.get(backend or "")


def _speculation(fields: Fields) -> tuple[int | None, float | None, list[float]]:
    """Rounds, mean acceptance length, and share of rounds that accepted each position."""
    rounds, accepted = fields.count("spec_decode_num_drafts"), fields.count("spec_decode_accepted_tokens")
    stated = fields.number("spec_decode_acceptance_length") or None  # 0 where nothing was drafted
    rates = fields.numbers("spec_decode_per_position_acceptance_rates") or []
    tau = 1 + accepted / rounds if rounds and accepted is not None else stated
    return rounds, tau, rates


def _times(fields: Fields, name: str) -> dict[str, float]:
    """From the times of single requests where they are in the file, else as the tool summed them up."""
    summed = known_only(
        {
            "p50": fields.number(f"median_{name}_ms"),
            "p90": fields.number(f"p90_{name}_ms"),
            "p99": fields.number(f"p99_{name}_ms"),
        }
    )
    samples = fields.items(f"{name}s")
    flat = [t for one in samples for t in (one if isinstance(one, list) else [one])]
    if not all(isinstance(t, int | float) and 0 <= t < math.inf for t in flat):
        raise ResultFileError(f"{fields.where}: {name}s is not a list of times")
    return quantiles((t for t in flat if t > 0), 1e3) or summed
