"""Output of `python -m sglang.bench_serving --output-file F`, read as SGLang 0.5.23 writes it.

Its newer name is `sglang.benchmark.serving`. One JSON object a line, one for each benchmark. `server_info`
holds the arguments of the server where its backend is SGLang.
"""

from typing import Any

from bench.imported.fields import ARRIVALS, TOKENS, Fields, known_only
from bench.imported.result import Result

TOOL = "sglang.bench_serving"

_OF_NO_INTEREST = (
    "tag", "sharegpt_output_len", "random_input_len", "random_output_len", "random_range_ratio",
    "total_input_tokens", "total_input_text_tokens", "total_input_vision_tokens", "request_throughput",
    "input_throughput", "total_throughput", "mean_e2e_latency_ms", "median_e2e_latency_ms",
    "std_e2e_latency_ms", "p90_e2e_latency_ms", "p95_e2e_latency_ms", "p99_e2e_latency_ms", "mean_ttft_ms",
    "std_ttft_ms", "p95_ttft_ms", "mean_tpot_ms", "median_tpot_ms", "std_tpot_ms", "p90_tpot_ms",
    "p95_tpot_ms", "p99_tpot_ms", "mean_itl_ms", "std_itl_ms", "p95_itl_ms", "max_output_tokens_per_s",
    "max_concurrent_requests", "input_lens", "output_lens", "ttfts", "itls", "generated_texts",
)  # fmt: skip

_OWN, _OPENAI = ("sglang", "sglang-native"), ("sglang-oai", "sglang-oai-chat")

# Algorithms that draft a chain of `speculative_num_steps` tokens where their top-k is 1.
_CHAINS = ("EAGLE", "EAGLE3", "NEXTN", "STANDALONE")


def is_one(value: Any) -> bool:
    """Whether a JSON value is a result of this tool."""
    return isinstance(value, dict) and {"sharegpt_output_len", "total_output_tokens"} <= value.keys()


def read(value: dict[str, Any], where: str) -> Result:
    """One benchmark.

    Raises:
        ResultFileError: fields are missing or damaged.
    """
    fields = Fields(value, where)
    backend = fields.text("backend") or ""
    info = value.get("server_info")
    server = fields.inside("server_info", info if isinstance(info, dict) else ())
    algorithm = server.text("speculative_algorithm") if server else None
    topk = server.count("speculative_eagle_topk") if server else None
    notes, gamma, accepted = [], None, None
    if server is not None and algorithm in _CHAINS and topk in (1, None):
        gamma = server.count("speculative_num_steps")
    elif algorithm:
        notes.append(
            f"Drafts of {algorithm} with top-k {topk} are no chains: gamma and acceptance by position do not "
            "apply."
        )
    elif server is not None and server.has("speculative_algorithm"):
        gamma = 0
    stated = fields.number("accept_length")
    if stated:
        accepted = stated
        notes.append("The acceptance length is that of the server since it started, not of these requests.")
    rate, concurrency = fields.get("request_rate"), fields.count("max_concurrency")
    seen = fields.number("concurrency")
    if concurrency is None:
        at_once = rate in (None, float("inf"), "inf")
        notes.append(
            f"{'All requests were sent at once' if at_once else f'Requests were sent at a rate of {rate}/s'}"
            f"{'' if seen is None else f'; {seen:.1f} were in flight on average'}."
        )
    retokenized, total = fields.count("total_output_tokens_retokenized"), fields.count("total_output_tokens")
    if retokenized and total and abs(retokenized - total) > 0.02 * total:
        notes.append(
            f"Its own count of {total:,} output tokens is {retokenized:,} when the texts are counted."
        )
    return Result(
        tool=TOOL,
        # Only the server says a version; its benchmark is of the same package as a rule.
        tool_version=None,
        num_requests=fields.needed_count("completed"),
        tokens_per_s=fields.needed("output_throughput"),
        engine=_engine(backend),
        engine_version=server.text("version") if server else None,
        model=server.text("model_path") if server else None,
        draft=server.text("speculative_draft_model_path") if server else None,
        domain=fields.text("dataset_name"),
        draft_length=gamma,
        concurrency=concurrency,
        num_failed=_failed(fields),
        num_output_tokens=total,
        duration_s=fields.number("duration"),
        inter_token_ms=_times(fields, "itl"),
        # Of SGLang's own protocol, and of its others where it drafts, an arrival of several tokens is several
        # equal times.
        inter_token_of=TOKENS if backend in _OWN or (stated and backend in _OPENAI) else ARRIVALS,
        first_token_ms=_times(fields, "ttft"),
        mean_acceptance_length=accepted,
        left_out=fields.left_out(_OF_NO_INTEREST),
        notes=notes,
        first_error=next((str(error) for error in fields.items("errors") if error), None),
    )


def _engine(backend: str) -> str | None:
    """The engine that a backend is of: "sglang-oai-chat" is SGLang's."""
    return next((name for name in ("sglang", "vllm", "lmdeploy", "trt") if backend.startswith(name)), None)


def _failed(fields: Fields) -> int | None:
    """From the errors of single requests, which only `--output-details` writes; None without."""
    return sum(map(bool, fields.items("errors"))) if fields.has("errors") else None


def _times(fields: Fields, name: str) -> dict[str, float]:
    return known_only(
        {
            "p50": fields.number(f"median_{name}_ms"),
            "p90": fields.number(f"p90_{name}_ms"),
            "p99": fields.number(f"p99_{name}_ms"),
        }
    )
