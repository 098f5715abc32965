"""A decoder LM with a trimmed head is a draft with rows of the whole one; every other bit is unchanged."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.config import PairConfig
from bench.cost.config_json import DraftKind
from bench.errors import CheckpointError
from bench.export.bundle import serve_commands
from bench.export.checkpoint import read_trimmed, trim_decoder_lm
from bench.models.checkpoint import confirmed_shape, load_draft
from bench.models.decoder_lm import DecoderLM
from bench.models.draft import Placement
from bench.models.target import load_target
from bench.select.check import check_pair
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import VOCAB_SIZE
from tests.zoo.targets import Row

SMALL = {"num_hidden_layers": 2, "head_dim": 8}
DRAFTS = {
    "tied": Row("draft", "llama", {**SMALL, "tie_word_embeddings": True}),
    "untied": Row("draft", "llama", {**SMALL, "tie_word_embeddings": False}),
    "tied by default": Row("draft", "gemma3_text", {**SMALL, "sliding_window": 16}),
}
VOCAB = DraftVocab(np.array([0, 1, 5, 9, 40, 96]), VOCAB_SIZE)
IDS = torch.tensor([7, 3, 60, 96, 2])


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    Row("target", "llama", {"tie_word_embeddings": True}).write(folder)
    return load_target(folder, torch.device("cpu"), torch.float32)


def written(row: Row, folder):
    folder.mkdir()
    row.write(folder)
    return folder


def logits(draft: DecoderLM) -> torch.Tensor:
    with torch.inference_mode():
        hidden = draft.prefill(IDS[:-1], IDS[-1:], torch.empty(0))
        return draft.full_head().logits(draft.normed(hidden))


@pytest.mark.parametrize("name", DRAFTS)
def test_a_trimmed_decoder_lm_is_a_draft_of_the_same_target(name, tmp_path, target):
    folder, out = written(DRAFTS[name], tmp_path / "draft"), tmp_path / "out"
    trim_decoder_lm(folder, VOCAB, lambda: tmp_path / "nowhere", out)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "draft" / "model.safetensors")
    assert after.keys() == before.keys() | {"lm_head.weight", "d2t", "t2d"}
    assert all(torch.equal(after[key], t) for key, t in before.items() if key != "lm_head.weight")
    place = Placement.beside(target)
    whole, trimmed = load_draft(folder, place), load_draft(out / "draft", place)
    assert not trimmed.has_tied_head and trimmed.vocab.target_ids.tolist() == VOCAB.target_ids.tolist()
    assert len(trimmed.unknown_ids) == 0 and not trimmed.notes
    torch.testing.assert_close(logits(trimmed), logits(whole)[..., VOCAB.target_ids], atol=0, rtol=0)
    alone = load_draft(out / "draft", Placement(torch.device("cpu"), torch.float32))
    torch.testing.assert_close(logits(alone), logits(trimmed))
    vocab, head = read_trimmed(out / "lm_head", VOCAB_SIZE)
    assert torch.equal(head, after["lm_head.weight"]) and vocab.content_hash == VOCAB.content_hash
    assert confirmed_shape(out / "draft").draft_vocab_size == len(VOCAB)
    assert confirmed_shape(folder).draft_vocab_size == VOCAB_SIZE
    told = check_pair(PairConfig(None, str(tmp_path / "target"), str(out / "draft")))
    assert not told.problems and "  its LM head has 6 of 97 tokens" in told.lines
    assert sum("not as it is here" in line for line in told.lines) == 3


def test_a_trimmed_decoder_lm_is_trimmed_further_by_its_own_map(tmp_path, target):
    folder = written(DRAFTS["tied"], tmp_path / "draft")
    trim_decoder_lm(folder, VOCAB, lambda: folder, tmp_path / "once")
    once, fewer = tmp_path / "once" / "draft", DraftVocab(np.array([1, 40, 96]), VOCAB_SIZE)
    trim_decoder_lm(once, fewer, lambda: folder, tmp_path / "twice")
    draft = load_draft(tmp_path / "twice" / "draft", Placement.beside(target))
    whole = load_draft(folder, Placement.beside(target))
    torch.testing.assert_close(logits(draft), logits(whole)[..., fewer.target_ids], atol=0, rtol=0)
    with pytest.raises(CheckpointError, match="lacks 1 of the 2 requested tokens, such as 3"):
        trim_decoder_lm(once, DraftVocab(np.array([1, 3]), VOCAB_SIZE), lambda: folder, tmp_path / "no")


def without_embedding(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def test_a_decoder_lm_without_embedding_takes_that_of_its_target(tmp_path, target):
    folder = without_embedding(written(DRAFTS["tied"], tmp_path / "draft"))
    draft = load_draft(folder, Placement.beside(target))
    assert draft.has_tied_head and draft.head_weight.data_ptr() == target.embedding_weight.data_ptr()
    trim_decoder_lm(folder, VOCAB, lambda: tmp_path / "target", tmp_path / "out")
    after = load_file(tmp_path / "out" / "draft" / "model.safetensors")
    assert torch.equal(after["model.embed_tokens.weight"], target.embedding_weight)
    assert torch.equal(after["lm_head.weight"], target.embedding_weight[VOCAB.target_ids])
    alone = load_draft(tmp_path / "out" / "draft", Placement(torch.device("cpu"), torch.float32))
    torch.testing.assert_close(logits(alone), logits(draft)[..., VOCAB.target_ids])


def test_an_untied_one_keeps_its_head_or_takes_that_of_its_target(tmp_path, target):
    folder = without_embedding(written(DRAFTS["untied"], tmp_path / "draft"))
    own = load_file(folder / "model.safetensors")
    draft = load_draft(folder, Placement.beside(target))
    assert torch.equal(draft.head_weight, own.pop("lm_head.weight"))
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    assert (
        load_draft(folder, Placement.beside(target)).head_weight.data_ptr() == target.head_weight.data_ptr()
    )


def test_commands_are_given_for_a_whole_head_and_reasons_for_a_trimmed_one():
    def commands(vocab):
        export = SimpleNamespace(
            settings=SimpleNamespace(checkpoint=True), kind=DraftKind.DECODER_LM, chosen=vocab
        )
        return serve_commands(export, "target", 3, Path("out"), Path("now"))

    trimmed = commands(VOCAB)
    assert trimmed.keys() == {"vLLM", "SGLang", "llama.cpp"}
    assert all(text.startswith("not loaded as measured: ") for text in trimmed.values())
    whole = commands(DraftVocab(np.arange(VOCAB_SIZE), VOCAB_SIZE))
    settings = {"method": "draft_model", "model": "out/exports/draft", "num_speculative_tokens": 3}
    assert json.loads(whole["vLLM"].split("'")[1]) == settings
    assert "--speculative-algorithm STANDALONE" in whole["SGLang"]
    assert "--speculative-token-map" not in whole["SGLang"]


def test_what_is_missing_or_does_not_fit_is_refused_in_one_line(tmp_path, target):
    place, lone = Placement.beside(target), Placement(torch.device("cpu"), torch.float32)
    folder = without_embedding(written(DRAFTS["tied"], tmp_path / "draft"))
    with pytest.raises(CheckpointError, match="takes that of its target: measure the pair with task=bench"):
        load_draft(folder, lone)
    wide = {**SMALL, "vocab_size": VOCAB_SIZE + 7, "tie_word_embeddings": True}
    padded = without_embedding(written(Row("padded", "llama", wide), tmp_path / "padded"))
    with pytest.raises(CheckpointError, match=r"is \(97, 32\) and not \(104, 32\)"):
        load_draft(padded, place)
    headless = written(DRAFTS["untied"], tmp_path / "headless")
    tensors = load_file(headless / "model.safetensors")
    save_file({k: t for k, t in tensors.items() if k != "lm_head.weight"}, headless / "model.safetensors")
    with pytest.raises(CheckpointError, match="lacks 1 weights of a llama, such as lm_head.weight"):
        load_draft(headless, place)
    short = dict(tensors, **{"lm_head.weight": tensors["lm_head.weight"][:9].clone()})
    save_file(short, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not a causal LM that transformers can load"):
        load_draft(headless, place)
    save_file(short | {"d2t": torch.zeros(5, dtype=torch.long)}, headless / "model.safetensors")
    with pytest.raises(CheckpointError, match="its map is of 5 tokens, and lm_head.weight has 9 rows"):
        load_draft(headless, place)
