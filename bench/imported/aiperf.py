"""Summaries of AIPerf, `profile_export_aiperf.json`, read as AIPerf 0.13.0 writes them (schema 1.4).

(`aiperf/common/models/export_models.py`, `aiperf/metrics/types`.) Its counts of acceptance are there where
the server says them with each answer.
"""

from typing import Any

from bench.errors import ResultFileError
from bench.imported.fields import ARRIVALS, REQUESTS, Fields, known_only
from bench.imported.result import Result, by_position

TOOL = "aiperf"

MAJOR = "1"

# Of requests, prompts and the client, or derived from what is read.
_OF_NO_INTEREST = (
    "benchmark_id", "run_info", "start_time", "end_time", "warmup_metrics", "metadata", "request_throughput",
    "request_latency", "time_to_second_token", "time_to_first_output_token", "output_sequence_length",
    "input_sequence_length", "output_token_count", "reasoning_token_count", "min_request_timestamp",
    "max_response_timestamp", "total_isl", "total_output_tokens", "total_reasoning_tokens", "error_isl",
    "total_error_isl", "output_token_throughput_per_user", "input_token_throughput",
    "e2e_output_token_throughput", "prefill_throughput_per_user", "decode_duration", "total_token_throughput",
    "completed_request_count", "request_error_rate", "requested_osl", "tokens_in_flight", "stream_*",
    "credit_*", "http_req_*", "usage_*", "osl_mismatch_*", "total_usage_*", "effective_*", "active_*",
    "spec_decode_*",
)  # fmt: skip


def is_one(value: Any) -> bool:
    """Whether a JSON value is a summary of this tool."""
    return isinstance(value, dict) and ("aiperf_version" in value or "input_config" in value)


def read(value: dict[str, Any], where: str) -> Result:
    """One benchmark.

    Raises:
        ResultFileError: it is of another schema, or damaged.
    """
    fields = Fields(value, where)
    schema, version = fields.text("schema_version"), fields.text("aiperf_version")
    if schema is None or schema.partition(".")[0] != MAJOR:
        raise ResultFileError(
            f"{where}: schema {schema or '(none)'} of AIPerf {version or '(no version)'}; this program reads "
            f"schema {MAJOR}.x, as of AIPerf 0.13: run the benchmark with that version"
        )
    config = fields.inside("input_config", value.get("input_config") or ())
    concurrency, notes = _concurrency(config)
    seconds = _average(fields, "benchmark_duration", {"sec": 1.0, "s": 1.0, "ms": 1e-3})
    count = _average(fields, "request_count", None)
    failed = _average(fields, "error_request_count", None)
    errors = fields.items("error_summary")
    rounds, gamma, tau, accepted = _speculation(fields)
    chunks = _quantiles(fields, "inter_chunk_latency")
    requests = _quantiles(fields, "inter_token_latency")
    total = _average(fields, "total_osl", None)
    speed = _average(fields, "output_token_throughput", None)
    if speed is None and count:
        raise ResultFileError(
            f"{where}: it has no output_token_throughput; was it a benchmark of generated text?"
        )
    cancelled, complete = fields.get("was_cancelled"), fields.get("is_complete")
    if reason := fields.text("incomplete_reason"):
        notes.append(f"AIPerf says of its end: {reason}.")
    return Result(
        tool=TOOL,
        tool_version=version,
        num_requests=round(count or 0),
        tokens_per_s=speed or 0.0,
        model=_model(config),
        device=_devices(fields.inside("telemetry_data", ("summary", "error_summary"))),
        draft_length=gamma,
        concurrency=concurrency,
        num_failed=round(failed or 0),
        num_output_tokens=None if total is None else round(total),
        duration_s=seconds,
        inter_token_ms=chunks or requests,
        inter_token_of=ARRIVALS if chunks else REQUESTS if requests else None,
        first_token_ms=_quantiles(fields, "time_to_first_token"),
        mean_acceptance_length=tau,
        accepted_by_position=accepted,
        num_rounds=rounds,
        left_out=fields.left_out(_OF_NO_INTEREST),
        notes=notes,
        first_error=_error(errors),
        is_whole=False if cancelled or complete is False else None if complete is None else True,
    )


def _concurrency(config: Fields | None) -> tuple[int | None, list[str]]:
    """Of the phase that is profiled."""
    phases = config.get("phases") if config else None
    known = [phase for phase in phases if isinstance(phase, dict)] if isinstance(phases, list) else []
    profiled = [phase for phase in known if phase.get("kind", phase.get("name")) != "warmup"]
    if not profiled:
        return None, ["The file does not say how requests were sent."]
    phase = Fields(profiled[-1], config.where if config else "", "input_config.phases.")
    found, kind, rate = phase.count("concurrency"), phase.get("type"), phase.number("rate")
    notes = []
    if kind not in ("concurrency", None):
        notes.append(f"Requests were sent by {kind}{'' if rate is None else f' at {rate:g} requests/s'}.")
    if len(profiled) > 1:
        notes.append(f"Its figures are of {len(profiled)} phases; the concurrency is that of the last.")
    return found, notes


def _devices(telemetry: Fields | None) -> str | None:
    """Names of the GPUs that AIPerf sampled."""
    endpoints = telemetry.get("endpoints") if telemetry else None
    if not isinstance(endpoints, dict):
        return None
    groups = [endpoint.get("gpus") for endpoint in endpoints.values() if isinstance(endpoint, dict)]
    gpus = [gpu for of_one in groups if isinstance(of_one, dict) for gpu in of_one.values()]
    names = [gpu.get("gpu_name") for gpu in gpus if isinstance(gpu, dict)]
    return ", ".join(dict.fromkeys(name for name in names if isinstance(name, str))) or None


def _model(config: Fields | None) -> str | None:
    """The only model; None where there are several."""
    models = config.get("models") if config else None
    items = models.get("items") if isinstance(models, dict) else models
    names = [item.get("name") if isinstance(item, dict) else item for item in _listed(items)]
    return names[0] if len(names) == 1 and isinstance(names[0], str) else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _metric(fields: Fields, name: str) -> Fields | None:
    return fields.inside(
        name, ("unit", "avg", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "min", "max",
               "std", "count", "sum"),
    )  # fmt: skip


def _average(fields: Fields, name: str, units: dict[str, float] | None) -> float | None:
    """The value of a metric of the whole run, in the unit that counts 1."""
    metric = _metric(fields, name)
    if metric is None:
        return None
    return metric.needed("avg") * (1.0 if units is None else _scale(metric, name, units))


def _quantiles(fields: Fields, name: str) -> dict[str, float]:
    metric = _metric(fields, name)
    if metric is None:
        return {}
    scale = _scale(metric, name, {"ms": 1.0, "us": 1e-3, "ns": 1e-6, "sec": 1e3, "s": 1e3})
    return {
        at: t * scale for at, t in known_only({a: metric.number(a) for a in ("p50", "p90", "p99")}).items()
    }


def _scale(metric: Fields, name: str, units: dict[str, float]) -> float:
    unit = metric.text("unit")
    if unit not in units:
        raise ResultFileError(f"{metric.where}: {name}.unit is {unit}, not {' or '.join(units)}")
    return units[unit]


def _speculation(fields: Fields) -> tuple[int | None, int | None, float | None, list[float]]:
    """Rounds, gamma where every round drafted as many, mean acceptance length, acceptance by position."""
    rounds = _average(fields, "total_spec_decode_steps", None)
    accepted = _average(fields, "total_accepted_draft_tokens", None)
    drafted = _average(fields, "total_draft_tokens", None)
    gamma = None
    if rounds and drafted and drafted % rounds == 0:
        gamma = round(drafted / rounds)
    histogram = fields.inside("pooled_spec_decode_acceptance_histogram")
    counts: dict[int, float] = {}
    for name in histogram.names() if histogram else ():
        if not name.isdecimal():
            raise ResultFileError(
                f"{fields.where}: pooled_spec_decode_acceptance_histogram counts {name!r}, which is no number"
            )
        counts[int(name)] = histogram.needed(name) if histogram else 0.0
    tau = 1 + accepted / rounds if rounds and accepted is not None else None
    return None if rounds is None else round(rounds), gamma, tau, by_position(counts, gamma)


def _error(errors: Any) -> str | None:
    first = errors[0] if isinstance(errors, list) and errors else None
    details = first.get("error_details") if isinstance(first, dict) else None
    return str(details.get("message") or details.get("type")) if isinstance(details, dict) else None
