"""What a run says of where it was measured."""

from types import SimpleNamespace

import pytest
import torch

from bench.cost.hardware import HardwareSpec
from bench.cost.shape import DraftShape
from bench.device import CpuDevice
from bench.identity import Identity
from bench.runs import environment
from bench.telemetry.host import cpu_frequency


def test_code_is_known_without_git_and_while_it_is_changed(monkeypatch, tmp_path):
    monkeypatch.setattr("bench.__file__", str(tmp_path / "__init__.py"))
    found = []
    for name, text in (("__init__.py", ""), ("a.py", "x = 1"), ("a.py", "x = 2"), ("notes.txt", "x")):
        (tmp_path / name).write_text(text)
        found.append(environment.describe(CpuDevice())["code"])
    assert len(set(found)) == 3 and found[2] == found[3]


@pytest.fixture
def pair(target, draft):
    return SimpleNamespace(
        name="tiny", dtype=torch.float32, target=target, draft=draft,
        target_identity=Identity({"weights": "t", "tokenizer": "x"}),
        draft_identity=Identity({"weights": "d"}),
        shape=DraftShape.from_config(CONFIG, "config.json"), target_config={},
    )  # fmt: skip


CONFIG = {
    "architectures": ["LlamaForCausalLMEagle3"], "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "vocab_size": 97, "draft_vocab_size": 97,
}  # fmt: skip


@pytest.fixture
def described(pair, monkeypatch):
    spec = HardwareSpec("CPU", "a test", None, {"float32": 1.0}, 2.0, None, None)
    monkeypatch.setattr(environment, "probe", lambda device, dtype: spec)
    return environment.describe_run(pair, CpuDevice(), {"code": "sha256:abc"})


def test_models_are_named_by_all_that_they_are_made_of(described):
    assert (described["target_fingerprint"], described["draft_fingerprint"]) == ("t", "d")
    assert described["identity"] == {"target": {"weights": "t", "tokenizer": "x"}, "draft": {"weights": "d"}}


def test_the_data_is_named_by_its_content(described):
    assert described["data"] == {"code": "sha256:abc"}
    assert described["cuda"] is None


def test_how_the_clock_is_set_or_why_that_is_not_known(described, tmp_path):
    assert described["cpu_frequency"].keys() == {"governor", "turbo", "why_not"}
    assert cpu_frequency(tmp_path) == {
        "governor": None,
        "turbo": None,
        "why_not": {
            "governor": "the kernel reports none, as in a virtual machine",
            "turbo": "the kernel does not report it",
        },
    }
    for number, governor in enumerate(("powersave", "performance", "powersave")):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    (tmp_path / "cpufreq").mkdir()
    (tmp_path / "cpufreq" / "boost").write_text("1\n")
    assert cpu_frequency(tmp_path) == {"governor": "performance,powersave", "turbo": "on", "why_not": {}}
    (tmp_path / "intel_pstate").mkdir()
    (tmp_path / "intel_pstate" / "no_turbo").write_text("1\n")
    assert cpu_frequency(tmp_path)["turbo"] == "off"
