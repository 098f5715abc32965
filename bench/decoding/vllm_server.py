"""Decoding in `vllm serve`, loaded by `vllm bench serve`, as users run both: over HTTP, on this machine.

The server is a process of vLLM's environment, and so is the tool that sends the requests and takes their
times. What was drafted and accepted is read from the server's own metrics.
"""

import json
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from bench.decoding.vllm_engine import (
    LOAD_TIMEOUT_S,
    WARM_UP_TOKENS,
    Parts,
    Request,
    Served,
    VllmError,
    end_process,
    environment,
    last_words,
    python_of_environment,
)
from bench.errors import ConfigError

NAME = "vllm serve"

_COMMANDS = Path(__file__).with_name("vllm_cli.py")

_HOST = "127.0.0.1"

# No proxy lies between two programs of this machine, whatever the environment says.
_WITHOUT_PROXY = {"NO_PROXY": _HOST, "no_proxy": _HOST}

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

# Fields of a result that `vllm bench serve` saves.
_FIELDS = ("duration", "output_lens", "ttfts", "itls", "generated_texts", "errors")

# Of `vllm.LLM`, and not of the server.
_NOT_OF_SERVER = ("model", "disable_log_stats", "worker_extension_cls")

_COUNTER = re.compile(r"^(vllm:spec_decode\w+?)_total(?:\{(.*)\})? (\S+)$")

_POSITION = re.compile(r'position="(\d+)"')

TextOf = Callable[[Sequence[int]], str]


def port_for(wanted: int | None) -> int:
    """The wanted port of this machine, or any free one.

    Raises:
        ConfigError: another program listens there.
    """
    with socket.socket() as probe:
        # As servers do: a port that was just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, wanted or 0))
        except OSError as error:
            raise ConfigError(
                f"vllm.port={wanted} cannot be used: {error.strerror}; choose another, or null: any free one"
            ) from error
        return int(probe.getsockname()[1])


class VllmServer:
    """A server that holds one target and one draft.

    Attributes:
        version: of vLLM.
        load_s: time from its start until it answered.
    """

    def __init__(
        self,
        process: subprocess.Popen[str],
        log: IO[str],
        port: int,
        model: str,
        python: Path,
        text_of: TextOf,
    ):
        self._process, self._log, self._python = process, log, python
        self._url, self._model, self._text_of = f"http://{_HOST}:{port}", model, text_of
        start = time.monotonic()
        while not self._is_ready():
            if process.poll() is not None:
                raise VllmError(last_words(process, log))
            if time.monotonic() - start > LOAD_TIMEOUT_S:
                raise VllmError(f"vLLM did not answer on port {port} within {LOAD_TIMEOUT_S:,.0f} s")
            time.sleep(0.2)
        self.load_s = time.monotonic() - start
        self.version = str(json.loads(self._get("/version")).get("version", "not known"))

    def warm_up(self, prompts: Sequence[Sequence[int]]) -> None:
        """Answers the first prompt once."""
        body = {"model": self._model, "prompt": list(prompts[0]), "max_tokens": WARM_UP_TOKENS}
        self._get("/v1/completions", json.dumps(body).encode())

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        concurrency: int,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Served:
        """Has all prompts decoded, `concurrency` at a time.

        Raises:
            VllmError: the server died, a request failed, or the tool does not say what it measured.
        """
        before = self._counters()
        with tempfile.TemporaryDirectory(prefix="vocabtrim-load-") as name:
            folder = Path(name)
            rows = [json.dumps({"prompt": self._text_of(ids)}) for ids in prompts]
            (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
            command = [
                *(str(self._python), str(_COMMANDS), "bench", "serve", "--backend", "openai"),
                *("--base-url", self._url, "--endpoint", "/v1/completions", "--model", self._model),
                *("--dataset-name", "custom", "--dataset-path", str(folder / "prompts.jsonl")),
                # The prompts are rendered, in this order, and have their special tokens.
                *("--skip-chat-template", "--disable-shuffle", "--num-prompts", str(len(prompts))),
                *("--extra-body", json.dumps({"add_special_tokens": False, "seed": seed})),
                *("--output-len", str(max_new_tokens), "--temperature", str(temperature)),
                *("--max-concurrency", str(concurrency), "--seed", str(seed), "--disable-tqdm"),
                *("--save-result", "--save-detailed"),
                *("--result-dir", str(folder), "--result-filename", "result.json"),
            ]
            said = self._run(command)
            try:
                found = json.loads((folder / "result.json").read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise VllmError(f"vllm bench serve {self.version} wrote no result: {said[-300:]}") from error
        return _served(found, len(prompts), self.version, _difference(self._counters(), before))

    def parts(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> Parts:
        """Not seen over HTTP."""
        return Parts("steps are not seen over HTTP", [], [])

    def _run(self, command: list[str]) -> str:
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment() | _WITHOUT_PROXY,
                timeout=LOAD_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise VllmError(f"vllm bench serve did not end within {LOAD_TIMEOUT_S:,.0f} s") from error
        if self._process.poll() is not None:
            raise VllmError(last_words(self._process, self._log))
        if done.returncode:
            lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            raise VllmError(
                f"vllm bench serve ended with exit code {done.returncode}: {' | '.join(lines[-3:])}"
            )
        return done.stdout

    def _counters(self) -> dict[str, Any]:
        """What was drafted and accepted since its start, by vLLM's names: a number, or one by position."""
        found: dict[str, Any] = {}
        for line in self._get("/metrics").splitlines():
            if match := _COUNTER.match(line):
                name, labels, value = match.groups()
                if position := _POSITION.search(labels or ""):
                    counts = found.setdefault(name, [])
                    counts += [0.0] * (int(position[1]) + 1 - len(counts))
                    counts[int(position[1])] += float(value)
                else:
                    found[name] = found.get(name, 0.0) + float(value)
        return found

    def _is_ready(self) -> bool:
        try:
            with _open(f"{self._url}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (OSError, HTTPException):
            return False

    def _get(self, path: str, body: bytes | None = None) -> str:
        request = urllib.request.Request(self._url + path, body, {"Content-Type": "application/json"})
        try:
            with _open(request, timeout=LOAD_TIMEOUT_S) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            raise VllmError(f"vllm serve answers {path} with {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            if self._process.poll() is None:
                raise VllmError(f"vllm serve does not answer {path}: {error}") from error
            raise VllmError(last_words(self._process, self._log)) from error


def _served(found: dict[str, Any], num_prompts: int, version: str, counters: dict[str, Any]) -> Served:
    if missing := [name for name in _FIELDS if name not in found]:
        raise VllmError(f"the result of vllm bench serve {version} has no {', '.join(missing)}")
    if failed := [error for error in found["errors"] if error]:
        reason = str(failed[0]).strip().splitlines()[-1]
        raise VllmError(f"{len(failed)} of {num_prompts} requests failed; the first: {reason}")
    if len(found["output_lens"]) != num_prompts:
        raise VllmError(f"{len(found['output_lens'])} of {num_prompts} requests were answered")
    columns = (found[name] for name in ("output_lens", "ttfts", "itls", "generated_texts"))
    requests = [
        Request([], [], [at * 1e3 for at in accumulate([first, *gaps])], text, num_tokens)
        for num_tokens, first, gaps, text in zip(*columns, strict=True)
    ]
    return Served(found["duration"] * 1e3, requests, counters)


def _difference(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in after.items():
        if isinstance(value, list):
            old = before.get(name, [])
            old = old + [0.0] * (len(value) - len(old))
            found[name] = [int(new - earlier) for new, earlier in zip(value, old, strict=True)]
        else:
            found[name] = int(value - before.get(name, 0))
    return found


@contextmanager
def vllm_server(
    settings: dict[str, Any], text_of: TextOf, port: int | None = None, python: Path | None = None
) -> Iterator[VllmServer]:
    """A server on this machine alone that holds the model of `settings`; it ends with the block.

    Args:
        settings: as of `vllm_settings`.
        text_of: the text of a prompt that the server turns into the same tokens again.
        port: that it listens on; None: any free one.
        python: of vLLM's environment.

    Raises:
        VllmError: there is no environment, another program listens on that port, or vLLM cannot load the
            model.
    """
    python = python or python_of_environment()
    model = str(settings["model"])
    try:
        number = port_for(port)
    except ConfigError as error:
        raise VllmError(str(error)) from error
    place = ("--host", _HOST, "--port", str(number))
    command = [str(python), str(_COMMANDS), "serve", model, *place, *_flags(settings)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
            start_new_session=True,  # it starts processes of its own, which must end too
        )
        try:
            yield VllmServer(process, log, number, model, python, text_of)
        finally:
            process.terminate()
            end_process(process)


def _flags(settings: dict[str, Any]) -> list[str]:
    """Arguments of `vllm.LLM` as options of the command line."""
    found = []
    for name, value in settings.items():
        if name in _NOT_OF_SERVER:
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{'' if value else 'no-'}{option}")
        else:
            found += [f"--{option}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return found
