"""Decodes prompts in vLLM: a process of `bench.decoding.vllm_engine`, with the Python of vLLM's environment.

It imports nothing of this project, which that environment does not hold. One process holds one model. It
reads jobs from standard input and answers in the file that its first argument names, one JSON object a line.
vLLM's own processes find `vllm_scopes` as this one does: in the folder of this file, after all packages.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Loads the model that the first line describes, then decodes job by job until the input ends."""
    settings = json.loads(sys.stdin.readline())
    sys.path.append(sys.path.pop(0))  # no file of this folder hides a package
    with Path(sys.argv[1]).open("a", encoding="utf-8") as answers:

        def answer(value: dict[str, Any]) -> None:
            answers.write(json.dumps(value) + "\n")
            answers.flush()

        import vllm

        start = time.perf_counter()
        model = vllm.LLM(**settings)
        answer({"version": vllm.__version__, "load_s": time.perf_counter() - start})
        for line in sys.stdin:
            job = json.loads(line)
            answer(decode_in_parts(model, job) if job["parts"] else decode(model, job))


def decode_in_parts(model: Any, job: dict[str, Any]) -> dict[str, Any]:
    """As `decode`, with `steps`: the parts of every step; from then on all steps of this model are timed."""
    reasons = model.collective_rpc("start_scopes")
    if any(reasons):
        return {"reason": next(filter(None, reasons))}
    done = decode(model, job)
    return {
        "reason": "",
        "requests": done["requests"],
        "steps": model.collective_rpc("end_scopes")[0],
        "num_threads": model.collective_rpc("num_compute_threads")[0],
    }


def decode(model: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Keeps `concurrency` requests in flight until every prompt is answered.

    Times are in ms from the moment that a request was added. A step that brings several tokens to a request
    was a round that accepted all but the last of them.
    """
    import vllm

    engine, waiting = model.llm_engine, list(enumerate(job["prompts"]))[::-1]
    sampling = vllm.SamplingParams(
        temperature=job["temperature"],
        seed=job["seed"],
        max_tokens=job["max_new_tokens"],
        detokenize=False,
        output_kind=vllm.sampling_params.RequestOutputKind.CUMULATIVE,
    )
    requests: list[dict[str, list[Any]]] = [
        {"token_ids": [], "num_new": [], "at_ms": []} for _ in job["prompts"]
    ]
    before, added, in_flight = counters(model), {}, 0
    start = time.perf_counter()
    while waiting or in_flight:
        while waiting and in_flight < job["concurrency"]:
            index, ids = waiting.pop()
            added[index] = time.perf_counter()
            engine.add_request(str(index), {"prompt_token_ids": ids}, sampling)
            in_flight += 1
        outputs = engine.step()
        now = time.perf_counter()
        for output in outputs:
            request, tokens = requests[int(output.request_id)], list(output.outputs[0].token_ids)
            if new := len(tokens) - len(request["token_ids"]):
                request["num_new"].append(new)
                request["at_ms"].append(round((now - added[int(output.request_id)]) * 1e3, 4))
            request["token_ids"] = tokens
            in_flight -= bool(output.finished)
    wall_ms = (time.perf_counter() - start) * 1e3
    after = counters(model)
    counted = {name: count_difference(after[name], before.get(name)) for name in after}
    return {"wall_ms": wall_ms, "requests": requests, "counters": counted}


def counters(model: Any) -> dict[str, Any]:
    """Its own counts of drafting: a number, or one by position."""
    found = {}
    for metric in model.get_metrics():
        if metric.name.startswith("vllm:spec_decode"):
            values = getattr(metric, "values", None)
            found[metric.name] = list(values) if values is not None else metric.value
    return found


def count_difference(after: Any, before: Any) -> Any:
    """What was counted between two readings."""
    if isinstance(after, list):
        return [new - old for new, old in zip(after, before or [0] * len(after), strict=True)]
    return after - (before or 0)


if __name__ == "__main__":
    main()
