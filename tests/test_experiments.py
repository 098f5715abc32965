"""Experiments decide over the defaults, and the command line over experiments."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bench.cli import quote_text
from bench.config import Config

CONF = Path(__file__).parent.parent / "conf"


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", [quote_text(o) for o in overrides]))
    assert isinstance(config, Config)
    return config


def test_the_experiments_there_are():
    names = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    assert names >= {"smoke", "default", "paper", "full", "hardware"}


def test_the_type_is_the_same_on_every_hardware():
    assert composed("experiment=hardware", "gpu=1").dtype == "bfloat16"
    assert composed("gpu=1").dtype == "auto"
    assert composed("experiment=hardware", "dtype=float32").dtype == "float32"


def test_the_papers_corpus_and_search():
    config = composed("experiment=paper")
    assert config.domain.name == "open_perfectblend" and config.domain.max_conversations == 50000
    search = config.select
    assert (search.coverage_weight, search.min_coverage, search.k_min) == (0.5, 0.0, 50)
    assert (search.trials, search.seed, search.coverage_of.name) == (100, 42, "ranking")
    assert composed("experiment=paper", "domain=code").domain.name == "code"


@pytest.mark.parametrize(
    ("experiment", "num_sizes", "draft_lengths", "num_prompts"),
    [
        ("smoke", 3, [1, 2, 3, 4, 5, 6], 2),
        ("default", 9, [1, 2, 3, 4, 5, 6], 8),
        ("full", 13, [1, 2, 3, 4, 5, 7], 16),
        ("hardware", 7, [2, 3, 5], 16),
    ],
)
def test_the_size_of_an_experiment(experiment, num_sizes, draft_lengths, num_prompts):
    config = composed(f"experiment={experiment}")
    assert len(config.vocab.sizes) == num_sizes
    assert config.measure.draft_lengths == draft_lengths
    assert config.measure.num_prompts == num_prompts
