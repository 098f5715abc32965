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

from bench.errors import AssetError, CheckpointError
from bench.models.decoder_lm import DecoderLM, load_decoder_lm, resolve_decoder_lm
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
IDS = torch.tensor([[3, 14, 15, 9, 26, 5]])


def make_model(config: PreTrainedConfig):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_steps_on_a_context_give_the_models_own_logits(kind):
    model = make_model(KINDS[kind])
    expected = model(IDS).logits
    draft = DecoderLM(model)
    cache, whole, trimmed = draft.new_cache(), draft.head(VOCAB_SIZE), draft.head(17)
    for ids, rows in ((IDS[:, :4], slice(0, 4)), (IDS[:, 4:5], slice(4, 5)), (IDS[:, 5:], slice(5, 6))):
        hidden = draft.step(ids, cache)
        torch.testing.assert_close(whole.logits(hidden), expected[:, rows], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(trimmed.logits(hidden), expected[:, rows, :17], rtol=1e-4, atol=1e-4)
    cache.rewind(5)
    torch.testing.assert_close(draft.step(IDS[:, 5:], cache), hidden)
    assert draft.runner == ("lean" if kind in ("llama", "gemma3") else "transformers")


@torch.inference_mode()
def test_the_lean_gemma_rounds_as_the_model_does():
    torch.manual_seed(0)
    model = make_model(KINDS["gemma3"]).to(torch.bfloat16)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.copy_(torch.randn_like(weight))
    expected = model.model(IDS).last_hidden_state
    found = LeanGemma(model.model).forward(IDS, KVCache(2))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_the_lean_gemma_refuses_what_its_window_does_not_hold():
    draft = DecoderLM(make_model(KINDS["gemma3"]))
    with pytest.raises(ValueError, match="33 tokens exceed the 32 positions"):
        draft.step(torch.zeros(1, 33, dtype=torch.long), draft.new_cache())


def test_a_soft_cap_is_kept():
    draft = DecoderLM(make_model(KINDS["gemma2"]))
    hidden = torch.full((1, 1, 32), 50.0)
    assert draft.logit_cap == 2.0
    assert draft.head(9).logits(hidden).abs().max() <= 2
    assert DecoderLM(make_model(KINDS["gemma3"])).head(9).logits(hidden).abs().max() > 2


def test_a_trimmed_head_selects_ids_of_the_first_rows():
    draft = DecoderLM(make_model(KINDS["gemma3"]))
    logits = torch.zeros(1, 1, 10)
    logits[0, 0, 7] = 1
    head = draft.head(10)
    assert head.size == 10 and head.select(logits).tolist() == [[7]]
    assert draft.head(VOCAB_SIZE).target_ids is None


def test_a_trimmed_head_shares_no_memory_with_the_model():
    draft = DecoderLM(make_model(KINDS["gemma3"]))
    hidden = torch.ones(1, 1, 32)
    before = draft.head(10), draft.head(10).logits(hidden).clone()
    draft.head_weight.zero_()
    torch.testing.assert_close(before[0].logits(hidden), before[1])


def test_tied_embeddings_are_seen():
    assert DecoderLM(make_model(KINDS["gemma3"])).has_tied_head
    assert not DecoderLM(make_model(KINDS["llama"])).has_tied_head


def test_a_saved_model_is_loaded_without_a_tokenizer(tmp_path):
    make_model(KINDS["gemma3"]).save_pretrained(tmp_path)
    folder, shape = resolve_decoder_lm(str(tmp_path))
    assert (folder, shape.vocab_size, shape.head_dim, shape.norms_per_layer) == (tmp_path, VOCAB_SIZE, 8, 4)
    draft = load_decoder_lm(folder, torch.device("cpu"), torch.float32)
    assert draft.vocab_size == VOCAB_SIZE


def test_what_is_no_decoder_lm_is_refused(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="smollm2-135m-eagle3 is an EAGLE-3 draft.*task=bench"):
        resolve_decoder_lm("smollm2-135m-eagle3")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="hidden_size is missing"):
        resolve_decoder_lm(str(tmp_path))
    with pytest.raises(CheckpointError, match="not a causal LM that transformers can load"):
        load_decoder_lm(tmp_path, torch.device("cpu"), torch.float32)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AssetError, match="nobody/nothing-of-this-name.*check the name and the network"):
        resolve_decoder_lm("nobody/nothing-of-this-name", weights=False)
