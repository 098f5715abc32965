"""Prompts of a run: which are used, which are set aside, and what is to blame if none is left."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.config import DomainSource, MeasureConfig, Source, VocabConfig
from bench.errors import CheckpointError, DomainError, VocabError
from bench.runs.workloads import count_answers, held_out_prompts, published_ids, split_held_out
from bench.text import OddRows, RowError
from bench.text.conversation import Split, take_split, user_prompt
from tests.conftest import VOCAB_SIZE
from tests.zoo.draft_rows import RUNS
from tests.zoo.drafts import OWN

VOCAB, MEASURE = VocabConfig(["full"]), MeasureConfig([1], 3, 8)
DOMAIN = DomainSource("mine", Source.file, "mine.jsonl", max_prompt_tokens=50, max_bad_share=0.5)
PROMPTS = [user_prompt(f"p{i}", f"text {i}") for i in range(40)]
RANKING, HELD_OUT = (take_split(PROMPTS, side, 0, 0.2) for side in (Split.RANKING, Split.HELD_OUT))


class Answers:
    def lacks(self, prompts, wanted):
        return True

    def get(self, target, prompts, wanted, progress):
        return [[1, 2, 2] for _ in prompts[:wanted]]


def pair(refused=(), length=5):
    def encode(prompt):
        if prompt.prompt_id in refused:
            raise RowError("refused", place=f"mine.jsonl, {prompt.prompt_id}")
        return [1] * length

    return of_target(encode)


def of_target(encode):
    target, draft = SimpleNamespace(encode=encode, vocab_size=4), SimpleNamespace(unknown_ids=np.array([3]))
    return SimpleNamespace(target=target, draft=draft, answers=Answers())


def test_prompts_that_the_target_refuses_are_set_aside_and_counted():
    odd = OddRows(num_read=len(PROMPTS))
    refused = [HELD_OUT[0].prompt_id, RANKING[0].prompt_id]
    found = held_out_prompts(pair(refused), DOMAIN, PROMPTS, VOCAB, MEASURE.num_prompts, odd)
    assert [encoded.prompt_id for encoded in found] == [p.prompt_id for p in HELD_OUT[1:4]]
    counts = count_answers(pair(refused), DOMAIN, PROMPTS, VOCAB, odd=odd)
    assert counts.tolist() == (np.array([0, 1, 2, 0]) * (len(RANKING) - 1)).tolist()
    assert odd.set_aside["refused"].num_rows == 2
    assert odd.set_aside["refused"].first == refused[0]


def test_too_many_that_are_refused_are_an_error():
    everything = [prompt.prompt_id for prompt in PROMPTS]
    with pytest.raises(DomainError, match="of 40 rows cannot be used, .* x refused .first: p"):
        count_answers(pair(everything), DOMAIN, PROMPTS, VOCAB)


@pytest.mark.parametrize("find", [held_out_prompts, count_answers])
def test_what_is_to_blame_is_named(find):
    arguments = (VOCAB, MEASURE.num_prompts) if find is held_out_prompts else (VOCAB,)
    side, other = (HELD_OUT, RANKING) if find is held_out_prompts else (RANKING, HELD_OUT)
    with pytest.raises(
        DomainError, match=rf"none of the {len(side)} prompts .* at most domain.max_prompt_tokens=50"
    ):
        find(pair(length=51), DOMAIN, PROMPTS, *arguments)
    with pytest.raises(DomainError, match="its only prompt is not .* another vocab.split_seed .now 0. or"):
        find(pair(), DOMAIN, other[:1], *arguments)
    with pytest.raises(DomainError, match="none of its 3 prompts is "):
        find(pair(), DOMAIN, other[:3], *arguments)


@pytest.mark.parametrize(("replayed", "num_further"), [(0, 0), (2, 0), (5, 2), (400, 3)])
def test_prompts_that_are_only_replayed_may_be_longer(replayed, num_further):
    ids = [prompt.prompt_id for prompt in HELD_OUT]
    lengths = dict(zip(ids, itertools.chain([60, 50, 81, 5, 5], itertools.repeat(70)), strict=False))

    def encode(prompt):
        return [1] * lengths[prompt.prompt_id]

    domain = replace(DOMAIN, max_replayed_prompt_tokens=80)
    prompts = [prompt for prompt in PROMPTS if prompt not in HELD_OUT[7:]]
    measured, further = split_held_out(of_target(encode), domain, prompts, VOCAB, 3, replayed)
    # In the order of the split: the short ones for latency, then whatever is short enough for replay.
    assert [encoded.prompt_id for _, encoded in measured] == [ids[1], ids[3], ids[4]]
    assert [encoded.prompt_id for _, encoded in further] == [ids[0], ids[5], ids[6]][:num_further]


def test_the_published_list_is_a_file_of_ids_or_a_trimmed_draft(tmp_path):
    def ids_of(published):
        return published_ids(VocabConfig(["full"], published=str(published)), pair)

    pair = SimpleNamespace(target=SimpleNamespace(vocab_size=VOCAB_SIZE))
    assert published_ids(VOCAB, pair) is None
    (tmp_path / "ids.json").write_text("[9, 2, 40]")
    assert ids_of(tmp_path / "ids.json").tolist() == [2, 9, 40]
    (tmp_path / "ids.txt").write_text("1\n97\n")
    with pytest.raises(VocabError, match="97"):
        ids_of(tmp_path / "ids.txt")
    trimmed = next(row for row in RUNS if "d2t" in row.tensors)
    assert ids_of(trimmed.write(tmp_path)).tolist() == OWN
    with pytest.raises(CheckpointError, match="smollm2-135m-eagle3: the draft has no d2t"):
        ids_of("smollm2-135m-eagle3")
