import pytest

from bench.config import (
    DomainConfig,
    DomainSource,
    GpuConfig,
    MeasureConfig,
    PairConfig,
    Source,
    VocabConfig,
)
from bench.errors import BenchError, ConfigError, DomainError

MEASURE = {"draft_lengths": [3], "num_prompts": 1, "max_new_tokens": 8}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: MeasureConfig(**{**MEASURE, "draft_lengths": [3, 0]}), "measure.draft_lengths=0"),
        (lambda: MeasureConfig(**{**MEASURE, "draft_lengths": []}), "measure.draft_lengths"),
        (lambda: MeasureConfig(**{**MEASURE, "num_prompts": 0}), "measure.num_prompts=0"),
        (lambda: MeasureConfig(**{**MEASURE, "max_new_tokens": 1}), "measure.max_new_tokens=1"),
        (lambda: MeasureConfig(**MEASURE, bootstrap_samples=9), "measure.bootstrap_samples=9"),
        (lambda: MeasureConfig(**MEASURE, num_threads=0), "measure.num_threads=0"),
        (lambda: VocabConfig(sizes=["0"]), "vocab.sizes=0"),
        (lambda: VocabConfig(sizes=["-4"]), "vocab.sizes=-4"),
        (lambda: VocabConfig(sizes=["half"]), "vocab.sizes=half"),
        (lambda: VocabConfig(sizes=["full"], held_out_share=1.0), "vocab.held_out_share=1.0"),
        (lambda: VocabConfig(sizes=["full"], ranking_answers=0), "vocab.ranking_answers=0"),
        (lambda: GpuConfig("tpu"), "gpu.device=tpu"),
        (lambda: GpuConfig("cuda:x"), "gpu.device=cuda:x"),
        (lambda: DomainSource("d", Source.bfcl, max_prompt_tokens=0), "domain.max_prompt_tokens=0"),
    ],
)
def test_an_impossible_value_names_its_key(make, name):
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        make()


def test_sizes_come_largest_first_without_full_and_doubles():
    assert VocabConfig(sizes=["512", "full", "4096", "512"]).trimmed_sizes() == [4096, 512]


def test_a_domain_is_one_source_or_its_members():
    code = DomainSource("code", Source.human_eval)
    assert DomainConfig("code", Source.human_eval).sources() == [code]
    assert DomainConfig("set", members={"code": code}).sources() == [code]
    with pytest.raises(BenchError, match="neither"):
        DomainConfig("empty").sources()


def test_jsonl_needs_its_file():
    with pytest.raises(DomainError, match="domain.path=FILE"):
        DomainSource("jsonl", Source.file)


def test_a_draft_alone_goes_by_its_own_name():
    for target, draft, name in (
        ("smollm2-135m-instruct", "my/model", "model"),
        ("", "gemma-3-270m", "gemma3-270m"),
        ("", "my/model", "model"),
    ):
        pair = PairConfig(None, target, draft)
        pair.measure_alone()
        assert pair.name == name
    named = PairConfig("mine", "a", "b")
    named.measure_alone()
    assert named.name == "mine" and PairConfig(None, "x/a", "y/b").name == "a+b"


@pytest.mark.parametrize("ids", ["sgl", [], [-1, 2], [1.5], [True, 2]])
def test_layer_ids_are_an_engine_or_layers(ids):
    with pytest.raises(ConfigError, match="pair.layer_ids="):
        PairConfig("p", "t", "d", layer_ids=ids)
    with pytest.raises(ConfigError, match="pair.device_map=cuda is impossible: it must be auto, balanced"):
        PairConfig("p", "t", "d", device_map="cuda")
    assert PairConfig("p", "t", "d", layer_ids=[2, 15, 27]).layer_ids == [2, 15, 27]
