"""Every file under conf/ composes into a valid configuration."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bench.cli import arrange, quote_text
from bench.config import Config, Task
from bench.errors import ConfigError

CONF = Path(__file__).parent.parent / "conf"
# What these do not say themselves.
NEEDED = {"domain/jsonl": ["domain.path=mine.jsonl"], "pair/custom": ["pair.target=t", "pair.draft=d"]}
OPTIONS = sorted(str(p.relative_to(CONF).with_suffix("")) for p in CONF.glob("*/*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_option_composes(option):
    group, name = option.split("/")
    overrides = [quote_text(f"{group}={name}"), *NEEDED.get(option, [])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides))
    assert isinstance(config, Config)
    assert config.domain.sources()
    assert config.vocab.trimmed_sizes()


def test_the_default_is_three_domains_and_nine_sizes():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config"))
    assert [d.name for d in config.domain.sources()] == ["code", "function_calling", "writing"]
    sizes = [32768, 16384, 8192, 4096, 2048, 1024, 512, 256]
    assert config.vocab.sizes == ["full", *map(str, sizes)]


@pytest.mark.parametrize("index", [0, 3, 11])
def test_a_gpu_is_chosen_by_its_index(index):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", [quote_text(f"gpu={index}")]))
    assert config.gpu.device == f"cuda:{index}" and config.gpu.name_pattern is None


def test_gpu_indices_are_quoted_and_nothing_else_is():
    assert quote_text("gpu=0") == "gpu='0'"
    assert quote_text("gpu=0,12,auto") == "gpu='0','12',auto"
    assert quote_text("gpu=cpu") == "gpu=cpu"
    assert quote_text("measure.seed=3") == "measure.seed=3"


def test_a_draft_alone_brings_its_sizes_and_needs_no_target():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", ["pair=gemma3-270m"]))
        chosen = OmegaConf.to_object(compose("config", ["pair=gemma3-270m", "vocab.sizes=[full,64]"]))
    assert len([size for size in config.vocab.trimmed_sizes() if size >= 512]) + 1 >= 10
    assert max(config.vocab.trimmed_sizes()) < 262144 and "full" in config.vocab.sizes
    assert chosen.vocab.sizes == ["full", "64"]
    with pytest.raises(ConfigError, match="pair=gemma3-270m has no target, which task=bench needs"):
        config.check_target()
    replace(config, task=Task.draft).check_target()


@pytest.mark.parametrize(
    ("given", "arranged"),
    [
        (["task=select", "-m", "domain=code,writing"], ["-m", "task=select", "domain=code,writing"]),
        (["-m", "gpu=0,1"], ["-m", "gpu='0','1'"]),
        (["gpu=0", "--multirun", "-m"], ["--multirun", "gpu='0'"]),
        (["task=fit", "--cfg", "job"], ["task=fit", "--cfg", "job"]),
    ],
)
def test_a_sweeps_flag_may_stand_anywhere(given, arranged):
    assert arrange(given) == arranged


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "smollm2-135m"),
        (["pair.target=mine/Llama-3.1-8B"], "Llama-3.1-8B+smollm2-135m-eagle3"),
        (["pair=custom", "pair.target=/models/big 8b/", "pair.draft=hub/eagle3"], "big_8b+eagle3"),
        (["pair=custom", "pair.target=t", "pair.draft=d", "pair.name=ours"], "ours"),
    ],
)
def test_a_pair_goes_by_its_own_name(overrides, name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides))
    assert config.pair.name == config.pair.label == name


def test_runs_that_are_named_after_a_users_pair_can_be_named_on_the_command_line():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["run=20260101-000000-Llama-3.1-8B+eagle3-code-cpu-host"])
    assert config.run == "20260101-000000-Llama-3.1-8B+eagle3-code-cpu-host"
