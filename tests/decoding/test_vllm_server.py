"""`vllm serve` and `vllm bench serve`, against stand-ins over HTTP; test_vllm_real.py runs the real ones."""

import socket
import stat
import sys
from pathlib import Path

import pytest

from bench.decoding.vllm_engine import VllmError, vllm_settings
from bench.decoding.vllm_server import port_for, vllm_server
from bench.errors import ConfigError

# The server counts two drafts a request, the load generator sends every prompt once. Prompts choose faults.
STAND_IN = """
import json, os, sys, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

counts = {"requests": 0}

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def say(self, text, code=200):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        n = counts["requests"]
        spec = "vllm:spec_decode_num_"
        self.say({
            "/health": "",
            "/version": '{"version": "9.9"}',
            "/metrics": "# HELP x\\nvllm:other_total 7\\n" if "--uncounted" in sys.argv else "\\n".join([
                spec + 'drafts_total{engine="0",model_name="m"} ' + str(2.0 * n),
                spec + 'drafts_created{engine="0"} 1.7e9',
                spec + 'accepted_tokens_per_pos_total{engine="0",position="1"} ' + str(1.0 * n),
                spec + 'accepted_tokens_per_pos_total{engine="0",position="0"} ' + str(2.0 * n),
            ]),
        }[self.path])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["prompt"] == "die":
            print("RuntimeError: out of luck", flush=True)
            os._exit(3)
        counts["requests"] += 1
        self.say("{}")

def value(name):
    return sys.argv[sys.argv.index(name) + 1]

def main():
    if sys.argv[1] == "serve":
        if sys.argv[2] == "absent":
            raise ValueError("no model absent")
        ThreadingHTTPServer(("127.0.0.1", int(value("--port"))), Handler).serve_forever()
    with open(value("--dataset-path")) as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    errors = []
    for prompt in prompts:
        body = json.dumps({"prompt": prompt, "max_tokens": int(value("--output-len"))}).encode()
        request = urllib.request.Request(value("--base-url") + value("--endpoint"), body)
        try:
            urllib.request.urlopen(request)
            errors.append("" if prompt != "refuse" else "Traceback\\nTimeoutError: too slow")
        except OSError as error:
            errors.append(str(error))
    if "crash" in prompts:
        sys.exit("KeyError: crash")
    result = {
        "duration": 2.5,
        "output_lens": [4] * len(prompts),
        "ttfts": [0.5] * len(prompts),
        "itls": [[0.25, 0.125]] * len(prompts),
        "generated_texts": [prompt.upper() + value("--max-concurrency") for prompt in prompts],
        "errors": errors,
    }
    if "old" in prompts:
        del result["itls"]
    with open(os.path.join(value("--result-dir"), value("--result-filename")), "w") as file:
        json.dump(result, file)
"""

WORDS = {1: "one", 2: "two", 3: "die", 4: "refuse", 5: "old", 6: "crash"}


@pytest.fixture
def python(tmp_path):
    place = tmp_path / "vllm" / "entrypoints" / "cli"
    place.mkdir(parents=True)
    (place / "main.py").write_text(STAND_IN)
    script = tmp_path / "bin" / "python"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def text_of(ids):
    return " ".join(WORDS[i] for i in ids)


def settings(model: str = "here", **more) -> dict:
    return vllm_settings(Path(model), "float32", 100, 2, None, is_on_cpu=True) | more


def test_a_server_is_loaded_and_its_own_counts_are_of_that_load(python):
    with vllm_server(settings(), text_of, python=python) as server:
        assert server.version == "9.9" and server.load_s > 0
        server.warm_up([[1], [2]])
        first = server.decode([[1], [2, 1], [2]], concurrency=2, max_new_tokens=4)
        again = server.decode([[1]], concurrency=1, max_new_tokens=4)
    assert [request.text for request in first.requests] == ["ONE2", "TWO ONE2", "TWO2"]
    assert first.wall_ms == 2500 and {request.num_tokens for request in first.requests} == {4}
    assert first.requests[0].at_ms == [500, 750, 875] and first.requests[0].token_ids == []
    # Of three requests, and not of the one before them.
    assert first.counters == {
        "vllm:spec_decode_num_drafts": 6,
        "vllm:spec_decode_num_accepted_tokens_per_pos": [6, 3],
    }
    assert again.counters["vllm:spec_decode_num_drafts"] == 2


def test_a_server_that_counts_nothing_is_measured_without_counts(python):
    with vllm_server(settings(uncounted=True), text_of, python=python) as server:
        assert server.decode([[1]], 1, 4).counters == {}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([3], "exit code 3.*RuntimeError: out of luck"),
        ([4], "1 of 2 requests failed; the first: TimeoutError: too slow"),
        ([5], "the result of vllm bench serve 9.9 has no itls"),
        ([6], "vllm bench serve ended with exit code 1: KeyError: crash"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(python, prompt, message):
    with vllm_server(settings(), text_of, python=python) as server:
        with pytest.raises(VllmError, match=message) as raised:
            server.decode([[1], prompt], 1, 4)
        assert "\n" not in str(raised.value)


def test_a_model_that_cannot_be_loaded_is_named(python):
    with (
        pytest.raises(VllmError, match="no model absent"),
        vllm_server(settings("absent"), text_of, python=python),
    ):
        pass


def test_a_port_in_use_is_refused_before_anything_starts(python):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"vllm\.port={port} .*in use.*null"):
            port_for(port)
        # Taken since then: a case that fails, and no end of the run.
        with (
            pytest.raises(VllmError, match=rf"vllm\.port={port}"),
            vllm_server(settings(), text_of, port, python),
        ):
            pass
    assert port_for(port) == port and port_for(None) > 0


def test_options_of_the_server_are_those_of_the_engine(python):
    speculative = {"method": "eagle3", "model": "d", "num_speculative_tokens": 3}
    with vllm_server(settings(speculative_config=speculative), text_of, python=python) as server:
        arguments = server._process.args
    assert arguments[2:4] == ["serve", "here"]
    assert {"--dtype", "--enforce-eager", "--no-enable-prefix-caching"} <= set(arguments)
    place = arguments.index("--speculative-config")
    assert arguments[place + 1] == '{"method": "eagle3", "model": "d", "num_speculative_tokens": 3}'
    assert not {"--model", "--disable-log-stats", "--worker-extension-cls"} & set(arguments)
