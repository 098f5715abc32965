"""A tiny random target and draft: real code paths, no download."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.cost.shape import DraftShape
from bench.models.decoder_lm import DecoderLM
from bench.models.draft import Draft
from bench.models.draft_config import EagleConfig, default_feature_layers
from bench.models.eagle import EagleDraft
from bench.models.eagle_body import EagleBody
from bench.models.target import Target
from bench.vocab.draft_vocab import DraftVocab

VOCAB_SIZE, HIDDEN = 97, 32


def make_llama(seed: int = 0, eos: int = 1, **changed) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    values = dict(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=eos,
        bos_token_id=0,
        pad_token_id=0,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(LlamaConfig(**{**values, **changed})).eval().requires_grad_(False)


def make_target(seed: int = 0, eos: int = 1) -> Target:
    target = Target(make_llama(seed, eos), SimpleNamespace(eos_token_id=eos, all_special_ids=[0, 1]))
    target.keep_features(default_feature_layers(8))
    return target


def make_body(seed: int = 0) -> EagleBody:
    torch.manual_seed(seed)
    config = EagleConfig(
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=VOCAB_SIZE,
        draft_vocab_size=VOCAB_SIZE,
        rms_norm_eps=1e-6,
        max_position_embeddings=256,
    )
    return EagleBody(config)


def make_draft(
    target: Target, seed: int = 0, head: torch.Tensor | None = None, vocab: DraftVocab | None = None
) -> EagleDraft:
    body = make_body(seed).eval().requires_grad_(False)
    vocab = vocab or DraftVocab(np.arange(VOCAB_SIZE), VOCAB_SIZE)
    head = target.head_weight if head is None else head
    return EagleDraft(vocab, head, body, target.embedding_weight, target.feature_layers)


def make_decoder_lm(seed: int = 1) -> DecoderLM:
    """A draft of another kind: it reads tokens alone."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return DecoderLM(model, DraftShape.from_config(config.to_dict(), "tiny"))


@pytest.fixture
def target() -> Target:
    return make_target()


@pytest.fixture
def draft(target: Target) -> Draft:
    return make_draft(target)
