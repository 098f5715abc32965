"""Every file under conf/ composes into a valid configuration."""

from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bench.cli import quote_gpu_index  # importing it registers the schema
from bench.config import Config, Task
from bench.errors import ConfigError

CONF = Path(__file__).parent.parent / "conf"
OPTIONS = sorted(str(p.relative_to(CONF).with_suffix("")) for p in CONF.glob("*/*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_option_composes(option):
    group, name = option.split("/")
    overrides = [quote_gpu_index(f"{group}={name}")] + (["domain.path=mine.jsonl"] if name == "jsonl" else [])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides))
    assert isinstance(config, Config)
    assert config.domain.sources()
    assert config.vocab.trimmed_sizes()


def test_the_default_is_three_domains_and_eleven_sizes():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config"))
    assert [d.name for d in config.domain.sources()] == ["code", "function_calling", "writing"]
    sizes = [32768, 24576, 16384, 12288, 8192, 4096, 2048, 1024, 512, 256]
    assert config.vocab.sizes == ["full", *map(str, sizes)]


def test_gpu_indices_are_quoted_and_nothing_else_is():
    assert quote_gpu_index("gpu=0") == "gpu='0'"
    assert quote_gpu_index("gpu=0,12,auto") == "gpu='0','12',auto"
    assert quote_gpu_index("gpu=cpu") == "gpu=cpu"
    assert quote_gpu_index("measure.seed=3") == "measure.seed=3"


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
