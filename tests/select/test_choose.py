"""One domain's choice on hand-made counts."""

import numpy as np
import pytest

from bench.config import CoverageOf, SelectConfig
from bench.cost.shape import DraftShape
from bench.errors import ConfigError, VocabError
from bench.select.choose import Vocabulary, rank, select
from bench.vocab.blocks import BlockCounts
from tests.cost.test_flops import SMOLLM2

V = 200
SHAPE = DraftShape.from_config({**SMOLLM2, "hidden_size": 8, "intermediate_size": 16, "vocab_size": V}, "c")


def blocks(seed: int, num_blocks: int = 30) -> BlockCounts:
    rng = np.random.default_rng(seed)
    tokens = np.minimum(rng.geometric(0.04, size=num_blocks * 40) - 1, V - 1)
    where = np.repeat(np.arange(num_blocks), 40)
    return BlockCounts.from_parts([(where, tokens, np.ones(len(tokens)))], V, num_blocks)


def choose(vocabulary=None, held_out=None, **settings):
    vocabulary = vocabulary or Vocabulary(V, [0, 150])
    counted, held_out = blocks(0), held_out or blocks(1, 8)
    ranking = rank({"d": counted.total()}, {"d": 1.0}, vocabulary)
    defaults = {"k_min": 1, "trials": 15}
    return select(ranking, counted, held_out, vocabulary, SHAPE, SelectConfig(**{**defaults, **settings}))


def test_the_choice_is_the_best_of_every_size():
    found = choose()
    utility = 0.5 * found.train.value + 0.5 * found.reduction
    assert found.exact.vocab_size == int(np.argmax(utility[1:])) + 2
    assert len(found.chosen) == found.exact.vocab_size
    assert {0, 150} <= set(found.chosen.target_ids.tolist())
    assert (np.sort(found.order[: len(found.chosen)]) == found.chosen.target_ids).all()


def test_the_held_out_responses_can_decide():
    found = choose(coverage_of=CoverageOf.held_out)
    assert found.held_out is not None and (found.judged == found.held_out.value).all()
    nothing = BlockCounts.from_parts([], V, 0)
    assert choose(held_out=nothing).held_out is None
    with pytest.raises(VocabError, match="coverage_of=held_out needs held-out responses"):
        choose(held_out=nothing, coverage_of=CoverageOf.held_out)


def test_a_size_that_is_asked_for_is_exported_beside_the_optimum():
    found = choose(vocab_size=17)
    assert len(found.chosen) == 17 and found.exact == choose().exact


def test_a_size_without_room_for_kept_scripts_names_them():
    vocabulary = Vocabulary(V, [*range(100, 160)])
    assert len(choose(vocabulary, keep_scripts=["greek", "Cyrl"]).chosen) >= 60
    with pytest.raises(VocabError, match=r"vocab_size=40 .* 60 tokens .*keep_scripts=\[Greek, Cyrillic\]"):
        choose(vocabulary, keep_scripts=["greek", "Cyrl"], vocab_size=40)
    with pytest.raises(VocabError, match=r"k_max=40 .* 60 tokens .*keep_scripts=\[Greek\]"):
        choose(vocabulary, keep_scripts=["Greek"], k_max=40)


@pytest.mark.parametrize("name", ["Danish", "Klingon", "", "Inherited", "Zzzz", "None"])
def test_an_unknown_script_is_refused_with_the_names_that_are_known(name):
    with pytest.raises(ConfigError, match=r"select.keep_scripts=.* Arabic, .*Cyrillic, .*Latin, ") as found:
        SelectConfig(keep_scripts=[name])
    assert "\n" not in str(found.value)


def test_multiples_limits_and_constraint_hold():
    found = choose(multiple=16, k_min=20, k_max=100, min_coverage=0.9)
    assert found.exact.vocab_size % 16 == 0 and 20 <= found.exact.vocab_size <= 100
    assert found.exact.coverage >= 0.9


def test_a_draft_with_a_trimmed_head_limits_the_choice():
    own = np.arange(0, V, 2)
    found = choose(Vocabulary(V, [0, 150, 151], own), vocab_size=60)
    assert len(found.order) == 100 and set(found.chosen.target_ids.tolist()) <= set(own.tolist())
    assert {0, 150} <= set(found.chosen.target_ids.tolist())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"k_max": 201}, "k_max=201 is larger than the draft's vocabulary of 200"),
        ({"k_max": 1}, "k_max=1 is smaller than the 2 tokens that every draft must keep"),
        ({"vocab_size": 1}, "vocabulary size 1 is impossible"),
        ({"vocab_size": 201}, "vocabulary size 201 is impossible"),
        ({"min_coverage": 1.0, "k_max": 3}, "highest possible coverage is .* at k = 3"),
        ({"multiple": 300}, "no multiple of 300"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(settings, reason):
    with pytest.raises(VocabError, match=reason):
        choose(**settings)
