"""Decoder LMs as drafts of a target: the text stays the target's, and a replay counts as a decode does."""

import json

import numpy as np
import pytest
import torch

from bench.config import PairConfig
from bench.decoding.decoder import Decoder
from bench.decoding.replay import read_answer, replay
from bench.decoding.rounds import Timeline
from bench.device import open_device
from bench.errors import CheckpointError
from bench.export.checkpoint import read_trimmed, trim_lm_head
from bench.models.checkpoint import load_draft
from bench.models.draft import Placement
from bench.runs.pair import load_pair
from bench.variant import Variant
from bench.vocab.draft_vocab import DraftVocab, choose_vocab
from tests.conftest import VOCAB_SIZE
from tests.zoo.targets import DELTA, MIXTURE, Row

TARGET = Row("target", "llama")
SMALL = {"num_hidden_layers": 2, "head_dim": 8}
DRAFTS = [
    Row("Llama, tied", "llama", {**SMALL, "tie_word_embeddings": True}),
    Row("Llama, padded to more tokens", "llama", {**SMALL, "vocab_size": VOCAB_SIZE + 7}),
    Row("Llama, of fewer tokens", "llama", {**SMALL, "vocab_size": VOCAB_SIZE - 9}),
    Row("Gemma 3: tied, sliding window", "gemma3_text", {**SMALL, "sliding_window": 4}),
    Row("Qwen3.5: recurrent", "qwen3_5_text", {**SMALL, "num_hidden_layers": 4, **DELTA}),
]
LONGEST = 3


def silent():
    return Timeline(lambda: None)


@pytest.mark.parametrize("row", DRAFTS, ids=lambda row: row.name)
@torch.inference_mode()
def test_a_decoder_lm_drafts_for_a_target(row, tmp_path):
    folders = [tmp_path / name for name in ("target", "draft")]
    for made, folder in zip((TARGET, row), folders, strict=True):
        folder.mkdir()
        made.write(folder)
    pair = load_pair(PairConfig(None, *map(str, folders)), open_device("cpu"), "float32")
    target, draft = pair.target, pair.draft
    size = row.config.get("vocab_size", VOCAB_SIZE)
    assert len(draft.vocab) == min(size, VOCAB_SIZE) and draft.vocab.target_vocab_size == VOCAB_SIZE
    assert draft.unknown_ids.tolist() == list(range(size, VOCAB_SIZE))
    assert any("ids that both have" in note for note in draft.notes) is (size != VOCAB_SIZE)
    assert draft.has_tied_head is bool(draft.head_weight.shape[0] and row.model().config.tie_word_embeddings)
    decoder, order = Decoder(target, 16), np.random.default_rng(3).permutation(draft.vocab.target_ids)
    accepted = 0
    for start in (5, 9, 14, 20, 31):
        prefill = decoder.prefill([0, *range(start, start + 6)])
        plain = decoder.plain(prefill, silent()).token_ids
        text = read_answer(target, prefill, plain, LONGEST)
        # The tokens of the answer enter first, so that a random draft is right now and then.
        own = np.concatenate([np.intersect1d(plain, order), np.setdiff1d(order, plain)])
        found = replay(draft, draft.full_head(), prefill.prompt_ids, text, {"own": own}, LONGEST)["own"]
        for k in (3, len(set(plain)), len(order)):
            head = draft.head(choose_vocab(own, [], min(k, len(order)), VOCAB_SIZE))
            decoded = decoder.speculative(prefill, draft, head, LONGEST, silent())
            assert decoded.token_ids == plain
            assert decoded.accepted == found.accepted_by_round(Variant(min(k, len(order)), LONGEST))
            accepted += sum(decoded.accepted)
    assert accepted


def test_the_head_of_a_decoder_lm_is_trimmed_as_a_copy(tmp_path):
    DRAFTS[0].write(tmp_path)
    vocab = DraftVocab(np.array([0, 3, 50]), VOCAB_SIZE)
    trim_lm_head(tmp_path, vocab, tmp_path / "out")
    kept, head = read_trimmed(tmp_path / "out", VOCAB_SIZE)
    model = DRAFTS[0].model()
    assert kept.target_ids.tolist() == [0, 3, 50]
    assert torch.equal(head, model.get_input_embeddings().weight[[0, 3, 50]])


def test_a_decoder_lm_of_another_tokenizer_or_with_experts_is_refused_in_one_line(tmp_path):
    folders = [tmp_path / name for name in ("target", "draft", "experts")]
    rows = (TARGET, DRAFTS[0], Row("experts", "qwen3_moe", {"num_experts": 4, **MIXTURE}))
    for row, folder in zip(rows, folders, strict=True):
        folder.mkdir()
        row.write(folder)
    path = folders[1] / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"] = {f"x{name}": token for name, token in values["model"]["vocab"].items()}
    values["model"]["unk_token"], values["added_tokens"], values["post_processor"] = "xw4", [], None
    path.write_text(json.dumps(values))
    pair = load_pair(PairConfig(None, str(folders[0]), str(folders[0])), open_device("cpu"), "float32")
    for folder, words in ((folders[1], "has no token of the target's"), (folders[2], "mixture of experts")):
        with pytest.raises(CheckpointError, match=words) as caught:
            load_draft(folder, Placement.beside(pair.target))
        assert "\n" not in str(caught.value)
