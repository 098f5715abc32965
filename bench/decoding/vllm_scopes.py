"""Times the parts of vLLM's steps: a class that vLLM adds to its worker (its option `worker_extension_cls`).

It runs in vLLM's environment, and imports nothing of this project. Before `start_scopes` it changes nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_PREFIX = "gpu_model_runner: "


class Scopes:
    """Calls for `collective_rpc`."""

    model_runner: Any
    step_timer: "_Timer"

    def start_scopes(self) -> str:
        """From now on every step is timed, part by part.

        Returns:
            Why that is not possible; empty if it is.
        """
        from vllm.v1.worker import gpu_model_runner

        runner = self.model_runner
        if not isinstance(runner, gpu_model_runner.GPUModelRunner):
            return f"this vLLM runs steps in {type(runner).__name__}, which has no scopes for profilers"
        if not hasattr(gpu_model_runner, "record_function_or_nullcontext"):
            return "this vLLM has no scopes for profilers"
        timer = _Timer(_synchronize(runner.device))
        gpu_model_runner.record_function_or_nullcontext = lambda name: timer.scope(name.removeprefix(_PREFIX))
        # A step is both calls; what comes between two steps is not the worker's.
        runner.execute_model = timer.steps_of(timer.timed("execute_model", runner.execute_model))
        runner.sample_tokens = timer.timed("sample_tokens", runner.sample_tokens)
        drafter = getattr(runner, "drafter", None)
        if drafter is not None:
            # One in the other: choosing a token, its logits over the whole vocabulary, and the LM head.
            places = (
                (drafter, "_greedy_sample", "draft_token"),
                (drafter.model, "compute_logits", "draft_logits"),
                (getattr(drafter.model, "logits_processor", None), "forward", "draft_head"),
            )
            for holder, method, name in places:
                if not hasattr(holder, method):
                    return f"the draft in this vLLM has no {method}"
                setattr(holder, method, timer.timed(name, getattr(holder, method)))
        self.step_timer = timer
        return ""

    def num_compute_threads(self) -> int:
        """CPU threads that compute the model; on a CPU, vLLM leaves some cores to its scheduler."""
        import torch

        return torch.get_num_threads()

    def end_scopes(self) -> list[dict[str, float]]:
        """One mapping a step: `num_tokens` that the target took in, and ms of every part by its name."""
        return self.step_timer.steps


class _Timer:
    def __init__(self, synchronize: Callable[[], None]):
        self.steps: list[dict[str, float]] = []
        self._synchronize = synchronize

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        self._synchronize()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._synchronize()
            if self.steps:
                parts = self.steps[-1]
                parts[name] = parts.get(name, 0.0) + (time.perf_counter() - start) * 1e3

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            with self.scope(name):
                return call(*arguments, **named)

        return run

    def steps_of(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        def run(scheduled: Any, *arguments: Any, **named: Any) -> Any:
            if scheduled.total_num_scheduled_tokens:
                self.steps.append({"num_tokens": scheduled.total_num_scheduled_tokens})
            return execute(scheduled, *arguments, **named)

        return run


def _synchronize(device: Any) -> Callable[[], None]:
    """Waits for the work that was queued on a GPU, so that a part's time is its own."""
    import torch

    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
