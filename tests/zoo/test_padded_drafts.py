"""Drafts of another vocabulary size than their target's: the ids that both have are drafted."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from bench.errors import CheckpointError
from bench.models.checkpoint import load_draft
from bench.models.draft import Placement
from bench.runs.workloads import _check_known
from tests.conftest import VOCAB_SIZE, make_target
from tests.zoo.drafts import EAGLE, SPECFORGE, weights

IDS = torch.randint(2, 80, (12,), generator=torch.Generator().manual_seed(1))


def load(folder, size, tensors, target, base=SPECFORGE, words=None):
    folder.mkdir()
    values = {**base, "vocab_size": size}
    values |= {"draft_vocab_size": size} if "draft_vocab_size" in base else {}
    (folder / "config.json").write_text(json.dumps(values))
    save_file(tensors, folder / "model.safetensors")
    if words:
        Tokenizer(WordLevel({word: i for i, word in enumerate(words)})).save(str(folder / "tokenizer.json"))
    return load_draft(folder, Placement.beside(target))


def resized(tensors, size):
    """The same with rows cut off or added."""
    changed = dict(tensors)
    for name in ("lm_head.weight", "embed_tokens.weight"):
        more = torch.randn(200, tensors[name].shape[1], generator=torch.Generator().manual_seed(3))
        changed[name] = torch.cat([tensors[name], more])[:size].contiguous()
    return changed


def logits(draft, target):
    target.keep_features(draft.feature_layers)
    features = target.forward(IDS[None, :-1], target.new_cache()).features
    with torch.inference_mode():
        return draft.full_head().logits(draft.normed(draft.prefill(IDS[:-1], IDS[-1:], features)))[0, 0]


@pytest.mark.parametrize("size", [80, 90, 100, 128])
def test_a_draft_padded_to_another_size_is_the_same_draft(tmp_path, size):
    target, values = make_target(), {**SPECFORGE, "vocab_size": VOCAB_SIZE}
    tensors = weights(values, own=list(range(VOCAB_SIZE)), embedding=True)
    plain = load(tmp_path / "plain", VOCAB_SIZE, tensors, target)
    padded = load(tmp_path / "padded", size, resized(tensors, size), target)
    both = min(size, VOCAB_SIZE)
    assert plain.notes == () and padded.vocab.target_ids.tolist() == list(range(both))
    made = f"the draft was made for {size} tokens and the target has 97"
    assert padded.notes == (f"{made}: it drafts the {both} ids that both have",)
    assert padded.unknown_ids.tolist() == list(range(both, VOCAB_SIZE))
    assert padded.vocab.target_vocab_size == padded.shape.vocab_size == VOCAB_SIZE
    torch.testing.assert_close(logits(padded, target), logits(plain, target)[:both])


def test_a_padded_draft_with_a_map_keeps_the_tokens_that_the_target_has(tmp_path):
    target, own = make_target(), [0, 1, 5, 60, 98, 99]
    values = {**SPECFORGE, "vocab_size": 100}
    tensors = weights(values, own=own, total=100)
    draft = load(tmp_path / "draft", 100, tensors, target)
    assert draft.vocab.target_ids.tolist() == own[:4]
    assert torch.equal(draft.head_weight, tensors["lm_head.weight"][:4].to(draft.head_weight))


def test_a_draft_without_head_and_embedding_has_the_targets(tmp_path):
    target = make_target()
    tensors = weights(EAGLE, "eagle", own=None)
    draft = load(tmp_path / "larger", 100, tensors, target, EAGLE)
    assert draft.vocab.is_full and not len(draft.unknown_ids)
    assert draft.head_weight.data_ptr() == target.head_weight.data_ptr()
    smaller = load(tmp_path / "smaller", 90, tensors, target, EAGLE)
    assert torch.equal(smaller.head_weight, target.head_weight[:90])
    torch.testing.assert_close(logits(smaller, target), logits(draft, target)[:90])


def test_a_tokenizer_beside_the_draft_decides_which_ids_are_the_same(tmp_path):
    target = make_target()
    names = [f"w{i}" for i in range(VOCAB_SIZE)]
    target.tokenizer = SimpleNamespace(get_vocab=lambda: {name: i for i, name in enumerate(names)})
    tensors = weights({**SPECFORGE}, own=list(range(VOCAB_SIZE)))
    other = [*names[:40], "new", *names[41:]]
    assert load(tmp_path / "same", VOCAB_SIZE, tensors, target, words=names).notes == ()
    draft = load(tmp_path / "other", VOCAB_SIZE, tensors, target, words=other)
    assert draft.unknown_ids.tolist() == [40] and 40 not in draft.vocab.target_ids
    with pytest.raises(CheckpointError, match="its tokenizer has no token of the target's with the same id"):
        load(tmp_path / "foreign", VOCAB_SIZE, tensors, target, words=[f"v{i}" for i in range(VOCAB_SIZE)])


def test_a_counted_token_without_a_row_is_named():
    tokenizer = SimpleNamespace(convert_ids_to_tokens=lambda token: f"w{token}")
    pair = SimpleNamespace(
        name="pair",
        draft=SimpleNamespace(unknown_ids=np.arange(90, 97)),
        target=SimpleNamespace(tokenizer=tokenizer),
    )
    counts = np.zeros(97, dtype=np.int64)
    counts[:90] = 1
    _check_known(pair, "code", counts)
    counts[[91, 95]] = 2, 7
    named = r"pair lacks 2 tokens that were counted, such as 'w95' \(id 95\), 7 times in code; use a draft of"
    with pytest.raises(CheckpointError, match=named):
        _check_known(pair, "code", counts)
