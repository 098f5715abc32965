"""Results of NVIDIA Model Optimizer's specdec_bench, which also runs SPEED-Bench.

Read as commit a2fbac7b of Model Optimizer writes them (`examples/specdec_bench`): a folder (`--save_dir`)
with `timing.json`, `acceptance_rate.json` and `configuration.json`. The first two are lists: a benchmark that
writes into the same folder is added at their ends; `configuration.json` is that of the last one.
"""

from pathlib import Path
from typing import Any

from bench.errors import ResultFileError
from bench.imported.fields import STEPS, Fields, known_only, read_json
from bench.imported.result import Result, by_position

TOOL = "specdec_bench"

TIMING, ACCEPTANCE, CONFIGURATION = "timing.json", "acceptance_rate.json", "configuration.json"

_TIMES = (
    "Output TPS/gpu", "E2E Request Time", "Request Generation Tokens Per Second", "Number of Output Tokens",
)  # fmt: skip

_ACCEPTED = ("Average_AL", "Conditional_Acceptance_Rate", "Joint_Acceptance_Rate")

_ENGINES = {"TRTLLM": "trtllm", "VLLM": "vllm", "SGLANG": "sglang", "AUTO_DEPLOY": "trtllm"}


def is_one(value: Any) -> bool:
    """Whether a JSON value is one of the files of this tool."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and bool(
        {"Output TPS", "Acceptance_Length_Histogram", "specdec_bench_version"} & first.keys()
    )


def read_folder(folder: Path) -> list[Result]:
    """Every benchmark of a folder.

    Raises:
        ResultFileError: a file is missing or damaged.
    """
    timings = _list(folder / TIMING)
    if timings is None:
        raise ResultFileError(
            f"{folder}: it has no {TIMING}, so no speed is known; name the --save_dir of a finished benchmark"
        )
    acceptances = _list(folder / ACCEPTANCE)
    if acceptances is None:
        raise ResultFileError(f"{folder}: it has no {ACCEPTANCE}; the benchmark writes both into --save_dir")
    if len(acceptances) != len(timings):
        raise ResultFileError(
            f"{folder}: {TIMING} has {len(timings)} benchmarks and {ACCEPTANCE} {len(acceptances)}, so they "
            "cannot be told apart; give every benchmark a --save_dir of its own"
        )
    path = folder / CONFIGURATION
    configuration = read_json(path)[0] if path.is_file() else {}
    if not isinstance(configuration, dict):
        raise ResultFileError(f"{path}: not an object")
    last = len(timings) - 1
    return [
        _benchmark(
            timing,
            acceptances[n],
            configuration if n == last else {},
            f"{folder}{f', benchmark {n + 1}' if last else ''}",
            is_configured=path.is_file() and n == last,
        )
        for n, timing in enumerate(timings)
    ]


def _list(path: Path) -> list[dict[str, Any]] | None:
    if not path.is_file():
        return None
    value = read_json(path)[0]
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise ResultFileError(f"{path}: not a list of benchmarks")
    return value


def _benchmark(
    timing: dict[str, Any],
    acceptance: dict[str, Any],
    configuration: dict[str, Any],
    where: str,
    is_configured: bool,
) -> Result:
    times, accepted, config = (Fields(v, where) for v in (timing, acceptance, configuration))
    gamma, notes = _gamma(config), []
    if not is_configured:
        notes.append(f"Its {CONFIGURATION} is missing or that of a later benchmark in the same folder.")
    counts = {}
    histogram = accepted.inside("Acceptance_Length_Histogram")
    for name in histogram.names() if histogram else ():
        if not name.isdecimal():
            raise ResultFileError(f"{where}: an acceptance length of {name!r}, which is no number")
        counts[int(name)] = histogram.needed(name) if histogram else 0.0
    rounds = sum(counts.values())
    tau = sum(length * n for length, n in counts.items()) / rounds if rounds else None
    longest = max(counts, default=0)
    positions: list[float] = []
    if gamma == 0:
        tau = None
    elif gamma is not None and longest > gamma + 1:
        tau = None
        notes.append(
            f"Steps of up to {longest} tokens arrived with gamma {gamma}: several rounds came at once, so "
            "acceptance is not known."
        )
    elif rounds:
        positions = by_position({length - 1: n for length, n in counts.items()}, gamma)
        notes.append("In acceptance, the first token of every answer counts as a round that accepts nothing.")
    steps = _quantiles(times, "Request Generation Step Time")
    if steps:
        notes.append("The time of a step includes the time to the first token of every answer.")
    return Result(
        tool=TOOL,
        tool_version=config.text("specdec_bench_version"),
        num_requests=_num_requests(accepted),
        tokens_per_s=_number(times.get("Output TPS"), f"{where}: Output TPS"),
        engine=_ENGINES.get(config.text("engine") or ""),
        engine_version=config.text("engine_version"),
        model=config.text("model_dir"),
        draft=config.text("draft_model_dir"),
        device=config.text("gpu"),
        domain=config.text("dataset"),
        draft_length=gamma,
        concurrency=config.count("concurrency"),
        # A request that fails ends the whole benchmark.
        num_failed=0,
        inter_token_ms=steps,
        inter_token_of=STEPS if steps else None,
        first_token_ms=_quantiles(times, "TTFT Time"),
        mean_acceptance_length=tau,
        accepted_by_position=positions,
        num_rounds=round(rounds) if rounds else None,
        left_out=[*times.left_out(_TIMES), *accepted.left_out(_ACCEPTED)],
        notes=notes,
    )


def _gamma(config: Fields) -> int | None:
    algorithm = config.text("speculative_algorithm")
    if algorithm == "NONE":
        return 0
    block = config.count("block_size")
    if algorithm == "DFLASH" and block:
        return block - 1
    return config.count("draft_length")


def _num_requests(accepted: Fields) -> int:
    """Turns of conversations, each of which is a request; questions where turns are not told apart."""
    values = accepted.get("Request_AL")
    if not isinstance(values, dict):
        return 0
    return sum(len(turns) if isinstance(turns, dict) else 1 for turns in values.values())


def _quantiles(times: Fields, name: str) -> dict[str, float]:
    """In ms; the tool writes quartiles, as texts in s."""
    found = times.inside(name, ("min", "max", "mean", "std"))
    quartiles = found.inside("quantiles", ("0.25", "0.75")) if found else None
    if quartiles is None:
        return {}
    value = quartiles.get("0.5")
    return known_only({"p50": None if value is None else _number(value, f"{times.where}: {name}") * 1e3})


def _number(value: Any, where: str) -> float:
    """A number, which this tool writes as a text now and then."""
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise ResultFileError(f"{where} is {value!r}, not a number") from error
    if not 0 <= found < float("inf"):
        raise ResultFileError(f"{where} is {value!r}, not a finite number of at least 0")
    return found
