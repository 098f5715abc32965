"""Decoder LMs as drafts: the same numbers as the model itself, whatever its kind."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from bench.cost.shape import DraftShape
from bench.errors import AssetError, CheckpointError
from bench.models.checkpoint import load_draft, resolve_lone_draft
from bench.models.decoder_lm import DecoderLM
from bench.models.draft import Placement
from bench.models.layers import KVCache
from bench.models.lean import LeanGemma

VOCAB_SIZE = 60
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
KINDS = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SIZES, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**SIZES, final_logit_softcapping=2.0, sliding_window=32),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        sliding_window=32,
        query_pre_attn_scalar=12,
        layer_types=["sliding_attention", "full_attention"],
    ),
}
IDS = torch.tensor([3, 14, 15, 9, 26, 5])
NO_FEATURES = torch.empty(0)


def make_model(config: PreTrainedConfig):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def make_draft(kind: str) -> DecoderLM:
    return DecoderLM(make_model(KINDS[kind]), DraftShape.from_config(KINDS[kind].to_dict(), kind))


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_steps_on_a_context_give_the_models_own_logits(kind):
    expected = make_model(KINDS[kind])(IDS[None]).logits
    draft = make_draft(kind)
    whole, trimmed = draft.full_head(), draft.head_of_size(17)

    def check(hidden, place):
        torch.testing.assert_close(whole.logits(hidden)[0, 0], expected[0, place], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            trimmed.logits(hidden)[0, 0], expected[0, place, :17], rtol=1e-4, atol=1e-4
        )

    hidden = draft.prefill(IDS[:3], IDS[3:4], NO_FEATURES)
    check(hidden, 3)
    check(draft.step(IDS[4:5], hidden), 4)
    last = draft.step(IDS[5:], hidden)
    check(last, 5)
    draft.rewind(4)
    torch.testing.assert_close(draft.extend(IDS[4:], NO_FEATURES), last)
    assert draft.runner == ("lean" if kind in ("llama", "gemma3") else "transformers")


@torch.inference_mode()
def test_the_lean_gemma_rounds_as_the_model_does():
    torch.manual_seed(0)
    model = make_model(KINDS["gemma3"]).to(torch.bfloat16)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.copy_(torch.randn_like(weight))
    expected = model.model(IDS[None]).last_hidden_state
    found = LeanGemma(model.model).forward(IDS[None], KVCache(2))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_the_lean_gemma_refuses_what_its_window_does_not_hold():
    draft = make_draft("gemma3")
    with pytest.raises(ValueError, match="33 tokens exceed the 32 positions"):
        draft.extend(torch.zeros(33, dtype=torch.long), NO_FEATURES)


def test_a_soft_cap_is_kept():
    draft = make_draft("gemma2")
    hidden = torch.full((1, 1, 32), 50.0)
    assert draft.logit_cap == 2.0
    assert draft.head_of_size(9).logits(hidden).abs().max() <= 2
    assert make_draft("gemma3").head_of_size(9).logits(hidden).abs().max() > 2


def test_a_trimmed_head_selects_ids_of_the_first_rows():
    draft = make_draft("gemma3")
    logits = torch.zeros(1, 1, 10)
    logits[0, 0, 7] = 1
    head = draft.head_of_size(10)
    assert head.size == 10 and head.select(logits).tolist() == [[7]]
    assert draft.full_head().target_ids is None


def test_a_trimmed_head_shares_no_memory_with_the_model():
    draft = make_draft("gemma3")
    hidden = torch.ones(1, 1, 32)
    before = draft.head_of_size(10), draft.head_of_size(10).logits(hidden).clone()
    draft.head_weight.zero_()
    torch.testing.assert_close(before[0].logits(hidden), before[1])


def test_tied_embeddings_are_seen():
    assert make_draft("gemma3").has_tied_head
    assert not make_draft("llama").has_tied_head


def test_a_saved_model_is_loaded_without_a_tokenizer(tmp_path):
    make_model(KINDS["gemma3"]).save_pretrained(tmp_path)
    folder, shape = resolve_lone_draft(str(tmp_path))
    assert (folder, shape.vocab_size, shape.head_dim, shape.norms_per_layer) == (tmp_path, VOCAB_SIZE, 8, 4)
    draft = load_draft(folder, Placement(torch.device("cpu"), torch.float32))
    assert len(draft.vocab) == VOCAB_SIZE and draft.shape == shape


def test_what_is_no_decoder_lm_is_refused(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="smollm2-135m-eagle3 is an EAGLE-3 draft.*task=bench"):
        resolve_lone_draft("smollm2-135m-eagle3")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="hidden_size is missing"):
        resolve_lone_draft(str(tmp_path))
    KINDS["llama"].save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="not a causal LM that transformers can load"):
        load_draft(tmp_path, Placement(torch.device("cpu"), torch.float32))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AssetError, match="nobody/nothing-of-this-name.*check the name and the network"):
        resolve_lone_draft("nobody/nothing-of-this-name", weights=False)
