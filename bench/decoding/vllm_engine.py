"""Decoding in vLLM, in a process and an environment of its own.

`make setup-vllm` creates the environment. It is kept apart: vLLM pins torch and dozens of packages.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.errors import DeviceError

NAME = "vllm"

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv-vllm"

_WORKER = Path(__file__).with_name("vllm_worker.py")

# Loading 70B parameters from a network disk takes minutes; a process that hangs must end some time.
LOAD_TIMEOUT_S = 1800.0

_ERROR_LINES = 3

# A process that was just started fills caches and compiles with its first requests.
WARM_UP_TOKENS = 8


class VllmError(DeviceError):
    """VLLM cannot decode: no environment, a model it cannot load, or a process that died."""


@dataclass(frozen=True)
class Request:
    """One answer.

    Attributes:
        token_ids: the answer.
        num_new: tokens of every step that brought some; 1 + accepted for a speculative round.
        at_ms: when they came, from the moment that the request was added.
        text: the answer, where the engine gives its text alone; there are then no ids, and no `num_new`.
        num_tokens: of such an answer.
    """

    token_ids: list[int]
    num_new: list[int]
    at_ms: list[float]
    text: str | None = None
    num_tokens: int | None = None


@dataclass(frozen=True)
class Served:
    """Prompts that one process decoded, so many at a time.

    Attributes:
        wall_ms: from the first request to the end of the last.
        requests: in the order of the prompts.
        counters: vLLM's own counts of drafting, by its name for them.
    """

    wall_ms: float
    requests: list[Request]
    counters: dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """Prompts that one process decoded, one at a time, with every part of every step timed.

    Attributes:
        reason: why this vLLM cannot do that; empty if it can.
        round_ms: of every step, the time since the one before; of all answers.
        steps: one mapping a step: `num_tokens` that the target took in, and ms of each part by its name.
        num_threads: CPU threads that compute; None if it is not known.
    """

    reason: str
    round_ms: list[float]
    steps: list[dict[str, float]]
    num_threads: int | None = None


def python_of_environment(folder: Path = ENVIRONMENT) -> Path:
    """The interpreter of vLLM's environment.

    Raises:
        VllmError: there is none.
    """
    python = folder / "bin" / "python"
    if not python.is_file():
        raise VllmError(f"engine=own,vllm needs vLLM in {folder}; install it there: make setup-vllm")
    return python


class VllmProcess:
    """A vLLM that holds one target and one draft.

    Attributes:
        version: of vLLM.
        load_s: how long loading took.
    """

    def __init__(self, process: subprocess.Popen[str], answers: IO[str], log: IO[str]):
        self._process, self._answers, self._log = process, answers, log
        loaded = self._next(LOAD_TIMEOUT_S)
        self.version, self.load_s = str(loaded["version"]), float(loaded["load_s"])

    def warm_up(self, prompts: Sequence[Sequence[int]]) -> None:
        """Answers the first prompt once."""
        self.decode(prompts[:1], 1, WARM_UP_TOKENS)

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        concurrency: int,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        timeout_s: float = LOAD_TIMEOUT_S,
    ) -> Served:
        """Decodes all prompts, `concurrency` at a time.

        Raises:
            VllmError: the process died or answers nothing.
        """
        found = self._ask(prompts, concurrency, max_new_tokens, temperature, seed, False, timeout_s)
        return Served(found["wall_ms"], [Request(**item) for item in found["requests"]], found["counters"])

    def parts(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, timeout_s: float = LOAD_TIMEOUT_S
    ) -> Parts:
        """Decodes all prompts greedily, one at a time, and times the parts of every step.

        Timing costs a little: whatever this process decodes later is slower.

        Raises:
            VllmError: the process died or answers nothing.
        """
        found = self._ask(prompts, 1, max_new_tokens, 0.0, 0, True, timeout_s)
        if found["reason"]:
            return Parts(found["reason"], [], [])
        times = [item["at_ms"] for item in found["requests"]]
        gaps = [late - early for at in times for early, late in zip(at, at[1:], strict=False)]
        return Parts("", gaps, found["steps"], int(found["num_threads"]))

    def _ask(
        self,
        prompts: Sequence[Sequence[int]],
        concurrency: int,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        in_parts: bool,
        timeout_s: float,
    ) -> dict[str, Any]:
        job = {
            "prompts": [list(ids) for ids in prompts],
            "concurrency": concurrency,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            "parts": in_parts,
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise VllmError(last_words(self._process, self._log)) from error
        return self._next(timeout_s)

    def _next(self, timeout_s: float) -> dict[str, Any]:
        """The next line that the worker answers."""
        until, text = time.monotonic() + timeout_s, ""
        while not text.endswith("\n"):
            if piece := self._answers.readline():
                text += piece
                continue
            if self._process.poll() is not None:
                # It may have answered just before it ended.
                if piece := self._answers.readline():
                    text += piece
                    continue
                raise VllmError(last_words(self._process, self._log))
            if time.monotonic() > until:
                raise VllmError(
                    f"vLLM did not answer within {timeout_s:,.0f} s; {last_words(self._process, self._log)}"
                )
            time.sleep(0.02)
        return dict(json.loads(text))


def vllm_settings(
    target: Path,
    dtype: str,
    longest_tokens: int,
    concurrency: int,
    speculative: dict[str, Any] | None,
    is_on_cpu: bool,
) -> dict[str, Any]:
    """What a vLLM model is made with, as arguments of `vllm.LLM`.

    Args:
        target: folder of the target.
        dtype: of weights and arithmetic.
        longest_tokens: of prompt and answer.
        concurrency: most requests at a time.
        speculative: its `speculative_config`; None for plain decoding.
        is_on_cpu: vLLM then runs eagerly: compiling for a CPU takes minutes and changes little.
    """
    return {
        "model": str(target),
        "dtype": dtype,
        "max_model_len": longest_tokens,
        "max_num_seqs": concurrency,
        "enforce_eager": is_on_cpu,
        # The same prompts are decoded again at every concurrency, and must be read again.
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "worker_extension_cls": "vllm_scopes.Scopes",
        **({"speculative_config": speculative} if speculative else {}),
    }


@contextmanager
def vllm_process(settings: dict[str, Any], python: Path | None = None) -> Iterator[VllmProcess]:
    """A process that holds the model of `settings`; it ends with the block.

    Raises:
        VllmError: there is no environment, or vLLM cannot load the model.
    """
    python = python or python_of_environment()
    with tempfile.TemporaryDirectory(prefix="vocabtrim-vllm-") as folder:
        answers, log = Path(folder) / "answers.jsonl", Path(folder) / "log.txt"
        answers.touch()
        with log.open("w+", encoding="utf-8", errors="replace") as output, answers.open() as lines:
            process = subprocess.Popen(
                [str(python), str(_WORKER), str(answers)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment(),
                # vLLM starts processes of its own, which must end too.
                start_new_session=True,
            )
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(settings) + "\n")
                process.stdin.flush()
                yield VllmProcess(process, lines, output)
            except BrokenPipeError as error:
                raise VllmError(
                    f"vLLM ended at once: {log.read_text(errors='replace').strip()[-300:]}"
                ) from error
            finally:
                end_process(process)


def last_words(process: subprocess.Popen[str], log: IO[str]) -> str:
    """How a process of vLLM ended, with the last lines that it printed, those of its errors first."""
    log.seek(0)
    lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line] or lines
    said = " | ".join(errors[-_ERROR_LINES:]) or "it printed nothing"
    return f"vLLM ended with exit code {process.poll()}: {said}"


def environment() -> dict[str, str]:
    """Variables of vLLM's processes: this program's packages must not shadow those of vLLM."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **kept,
    }


def end_process(process: subprocess.Popen[str]) -> None:
    """Lets it end by itself, then ends it with all of its children."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
