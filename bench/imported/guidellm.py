"""Reports of GuideLLM, `benchmarks.json`, read as GuideLLM 0.8.1 writes them (report schema 2).

(`guidellm/benchmark/schemas`.) One report holds a benchmark for each strategy. GuideLLM knows nothing of
speculation: it reads no counters of the server.
"""

from typing import Any

from bench.errors import ResultFileError
from bench.imported.fields import REQUESTS, Fields, known_only
from bench.imported.result import Result

TOOL = "guidellm"

SCHEMA = 2

_OF_NO_INTEREST = (
    "type_", "scheduler_state", "scheduler_metrics", "start_time", "end_time", "warmup_duration",
    "cooldown_duration",
)  # fmt: skip

# What follows from other metrics, or is of words, pictures or single requests.
_METRICS = (
    "requests_per_second", "request_latency", "request_streaming_iterations_count", "prompt_token_count",
    "total_token_count", "time_per_output_token_ms", "prompt_tokens_per_second", "tokens_per_second",
    "output_tokens_per_iteration", "iter_tokens_per_iteration", "text", "image", "video", "audio",
    "tool_call", "time_to_first_output_token_ms", "time_to_last_round_trip_ms", "avg_round_trip_time_ms",
    "request_dispatch_delay", "request_scheduled_latency", "turn_predecessor_delay", "turn_scheduling_delay",
    "root_dispatch_delay", "slo_determined_requests",
)  # fmt: skip


def is_one(value: Any) -> bool:
    """Whether a JSON value is a report of this tool."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("benchmarks"), list)
        and isinstance(value.get("metadata"), dict)
    )


def read(value: dict[str, Any], where: str) -> list[Result]:
    """Every benchmark of a report.

    Raises:
        ResultFileError: it is of another schema, empty, or damaged.
    """
    fields = Fields(value, where)
    metadata = fields.inside("metadata", ("python_version", "platform"))
    assert metadata is not None
    schema, version = metadata.get("version"), metadata.text("guidellm_version")
    if schema != SCHEMA:
        raise ResultFileError(
            f"{where}: report schema {schema} of GuideLLM {version or '(no version)'}; this program reads "
            f"schema {SCHEMA}, as of GuideLLM 0.8: run the benchmark with that version"
        )
    benchmarks = fields.items("benchmarks")
    if not benchmarks:
        raise ResultFileError(f"{where}: a report of no benchmark; did GuideLLM end before its first one?")
    beside = fields.left_out(("config", "benchmarks"))
    return [
        _benchmark(item, f"{where}, benchmark {n}", version, beside) for n, item in enumerate(benchmarks, 1)
    ]


def _benchmark(value: Any, where: str, version: str | None, beside: list[str]) -> Result:
    """One benchmark; `beside` are fields of the report that are left out."""
    if not isinstance(value, dict):
        raise ResultFileError(f"{where}: not an object")
    fields = Fields(value, where)
    metrics = fields.inside("metrics", _METRICS)
    if metrics is None:
        raise ResultFileError(f"{where}: it has no metrics; was the file edited?")
    totals = metrics.inside("request_totals", ("total",))
    if totals is None:
        raise ResultFileError(f"{where}: it has no metrics.request_totals; was the file edited?")
    config = fields.inside("config", value.get("config") or ())
    strategy = config.inside("strategy", ("type_", "worker_count", "max_concurrency")) if config else None
    backend = config.inside("backend", config.get("backend") or ()) if config else None
    incomplete = totals.count("incomplete")
    concurrency, notes = _concurrency(strategy, metrics)
    if incomplete:
        notes.append(f"{incomplete:,} requests were under way when the benchmark ended; they do not count.")
    for warning in fields.items("warnings"):
        if isinstance(warning, dict) and warning.get("message"):
            notes.append(f"GuideLLM warns: {warning['message']}")
    requests = fields.inside("requests", ("successful", "incomplete"))
    errored = requests.get("errored") if requests else None
    return Result(
        tool=TOOL,
        tool_version=version,
        num_requests=totals.needed_count("successful"),
        tokens_per_s=_rate(metrics, where),
        model=backend.text("model") if backend else None,
        concurrency=concurrency,
        num_failed=totals.count("errored"),
        num_output_tokens=_total(metrics, "output_token_count"),
        duration_s=fields.number("duration"),
        inter_token_ms=_quantiles(metrics, "inter_token_latency_ms"),
        inter_token_of=REQUESTS,
        first_token_ms=_quantiles(metrics, "time_to_first_token_ms"),
        left_out=[*fields.left_out(_OF_NO_INTEREST), *beside],
        notes=notes,
        first_error=_error(errored),
    )


def _concurrency(strategy: Fields | None, metrics: Fields) -> tuple[int | None, list[str]]:
    """Most requests in flight by the strategy, and what else it says of the load."""
    seen = _successful(metrics, "request_concurrency")
    mean = None if seen is None else seen.number("mean")
    if strategy is None:
        return None, ["The file does not say how requests were sent."]
    kind, ramp_s = strategy.get("type_"), strategy.number("rampup_duration")
    notes = [f"Requests started within {ramp_s:g} s."] if ramp_s else []
    if kind == "synchronous":
        return 1, notes
    if kind == "concurrent":
        return strategy.count("streams"), notes
    found = strategy.count("max_concurrency")
    rate = strategy.number("rate")
    at = "" if rate is None else f" at {rate:g} requests/s"
    average = "" if mean is None else f", {mean:.1f} in flight on average"
    return found, [*notes, f"Requests were sent by the strategy {kind}{at}{average}."]


def _successful(metrics: Fields, name: str) -> Fields | None:
    """The distribution of the requests that succeeded."""
    found = metrics.inside(name, ("errored", "incomplete", "total"))
    values = None if found is None else found.get("successful")
    return Fields(values, metrics.where, f"metrics.{name}.") if isinstance(values, dict) else None


def _total(metrics: Fields, name: str) -> int | None:
    found = _successful(metrics, name)
    total = None if found is None else found.number("total_sum")
    return None if total is None else round(total)


def _rate(metrics: Fields, where: str) -> float:
    """Output tokens/s of all requests together, over time, which is how GuideLLM means this metric."""
    found = _successful(metrics, "output_tokens_per_second")
    if found is None:
        raise ResultFileError(f"{where}: it has no metrics.output_tokens_per_second; was the file edited?")
    return found.needed("mean")


def _quantiles(metrics: Fields, name: str) -> dict[str, float]:
    found = _successful(metrics, name)
    if found is None or not found.number("count"):
        return {}
    percentiles = found.inside("percentiles")
    if percentiles is None:
        return {}
    return known_only({at: percentiles.number(at) for at in ("p50", "p90", "p99")})


def _error(errored: Any) -> str | None:
    """What GuideLLM kept of the first request that failed."""
    first = errored[0] if isinstance(errored, list) and errored else None
    info = first.get("info") if isinstance(first, dict) else None
    return str(info["error"]) if isinstance(info, dict) and info.get("error") else None
