"""What is asked of vLLM, and what is refused before anything is loaded."""

import socket

import pytest

from bench.config.run import VllmConfig
from bench.decoding.vllm_engine import VllmError
from bench.errors import ConfigError
from bench.measure.served import Setting
from bench.runs import served
from bench.runs.served import check_contexts, check_ready


def test_a_port_in_use_matters_only_to_servers(monkeypatch):
    monkeypatch.setattr(served, "python_of_environment", lambda: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check_ready(VllmConfig(port=port))
        with pytest.raises(ConfigError, match=rf"vllm\.port={port} cannot be used"):
            check_ready(VllmConfig(num_servers=1, port=port))


def test_a_missing_environment_is_said_first(monkeypatch, tmp_path):
    monkeypatch.setattr("bench.decoding.vllm_engine.python_of_environment.__defaults__", (tmp_path,))
    with pytest.raises(VllmError, match="make setup-vllm"):
        check_ready(VllmConfig(num_servers=1))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"port": 0}, "vllm.port=0"),
        ({"num_servers": -1}, "vllm.num_servers=-1"),
        ({"temperatures": [0.0]}, "vllm.temperatures="),
        ({"contexts": [0]}, "vllm.contexts="),
        ({"concurrency": [1, 1]}, "vllm.concurrency="),
    ],
)
def test_impossible_values_are_refused_by_their_key(values, key):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        VllmConfig(**values)


def test_a_context_that_the_target_cannot_hold_is_refused():
    target = {"max_position_embeddings": 2048}
    check_contexts([512, 1856], 128, target)
    check_contexts([], 4096, target)
    check_contexts([9999], 128, {})
    with pytest.raises(ConfigError, match=r"vllm\.contexts=1857 .* 2,048 tokens.*at most 1856"):
        check_contexts([512, 1857], 128, target)


def test_every_further_setting_stands_alone():
    config = VllmConfig(temperatures=[0.5, 1.0], contexts=[512])
    assert served._settings(config) == [Setting(), Setting(0.5), Setting(1.0), Setting(None, 512)]
