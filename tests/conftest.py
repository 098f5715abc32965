"""A tiny random target and draft: real code paths, no download."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.models.checkpoint import DraftCheckpoint
from bench.models.eagle3 import Eagle3Body, Eagle3Config, Eagle3Draft
from bench.models.layers import pack_linears
from bench.models.target import Target
from bench.vocab.draft_vocab import DraftVocab

VOCAB_SIZE, HIDDEN = 97, 32


def make_target(seed: int = 0, eos: int = 1) -> Target:
    torch.manual_seed(seed)
    config = LlamaConfig(
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
    tokenizer = SimpleNamespace(eos_token_id=eos, all_special_ids=[0, 1])
    return Target(LlamaForCausalLM(config).eval().requires_grad_(False), tokenizer)


def make_body(seed: int = 0) -> Eagle3Body:
    torch.manual_seed(seed)
    config = Eagle3Config(
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=VOCAB_SIZE,
        draft_vocab_size=VOCAB_SIZE,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        max_position_embeddings=256,
    )
    return Eagle3Body(config)


def make_draft(target: Target, seed: int = 0) -> DraftCheckpoint:
    body = make_body(seed).eval().requires_grad_(False)
    pack_linears(body)
    whole = DraftVocab(np.arange(VOCAB_SIZE), VOCAB_SIZE)
    return DraftCheckpoint(Eagle3Draft(body, target.embedding_weight), target.head_weight, whole)


@pytest.fixture
def target() -> Target:
    return make_target()


@pytest.fixture
def draft(target: Target) -> DraftCheckpoint:
    return make_draft(target)
