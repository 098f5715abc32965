"""The shipped draft with one key changed: it accepts what a plain reference with that key accepts."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.config import PairConfig
from bench.decoding.decoder import Decoder
from bench.decoding.rounds import Timeline
from bench.models.checkpoint import SHIPPED, load_draft
from bench.models.draft import Placement
from bench.models.fetching import resolve_model
from bench.models.target import load_target
from bench.runs.pair import placement_of
from bench.text.conversation import user_prompt
from tests.zoo.reference import ReferenceDraft

pytestmark = pytest.mark.slow

GAMMA, NUM_TOKENS, HIDDEN = 3, 20, 576
DRAFT = SHIPPED / "smollm2-135m-eagle3"
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def scattered(width: int, seed: int) -> torch.Tensor:
    """A norm near one, so that the draft stays a good one."""
    return 1 + 0.05 * torch.randn(width, generator=torch.Generator().manual_seed(seed))


# Keys, tensors beside the shipped ones, options of the pair, and the target's layers.
CHANGES = {
    "nothing": ({}, {}, {}, (2, 15, 27)),
    "llama3 rope": ({"rope_scaling": LLAMA3}, {}, {}, (2, 15, 27)),
    "linear rope": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, {}, {}, (2, 15, 27)),
    "yarn rope": (
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
        {},
        {},
        (2, 15, 27),
    ),
    "norm_before_residual": ({"norm_before_residual": True}, {}, {}, (2, 15, 27)),
    "norm_output": ({"norm_output": True}, {}, {}, (2, 15, 27)),
    "norm_before_fc": (
        {"norm_before_fc": True},
        {"input_norm.weight": scattered(3 * HIDDEN, 1)},
        {},
        (2, 15, 27),
    ),
    "fc_norm": (
        {"fc_norm": True},
        {f"fc_norm.{i}.weight": scattered(HIDDEN, i) for i in range(3)},
        {},
        (2, 15, 27),
    ),
    "layer ids as vLLM reads them": (
        {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 14, 26]}},
        {},
        {},
        (1, 14, 26),
    ),
    "layer ids as SGLang reads them": (
        {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 14, 26]}},
        {},
        {"layer_ids": "sglang"},
        (2, 15, 27),
    ),
    "biases": (
        {"attention_bias": True},
        {
            f"midlayer.self_attn.{part}_proj.bias": 0.1 * (scattered(width, 5) - 1)
            for part, width in (("q", 576), ("k", 192), ("v", 192), ("o", 576))
        },
        {},
        (2, 15, 27),
    ),
}


@pytest.fixture(scope="module")
def target():
    return load_target(resolve_model("smollm2-135m-instruct"), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def answer(target):
    """Prompt, the target's greedy answer, and all of its hidden states by `transformers`' hooks."""
    prompt = target.encode(user_prompt("p", "Write a Python function that adds two numbers."))
    plain = Decoder(target, NUM_TOKENS).plain(
        Decoder(target, NUM_TOKENS).prefill(prompt), Timeline(lambda: None)
    )
    ids = torch.tensor([*prompt, *plain.token_ids])
    states = {}
    hooks = [
        layer.register_forward_hook(
            lambda _m, _i, out, at=index: states.__setitem__(
                at, (out[0] if isinstance(out, tuple) else out)[0]
            )
        )
        for index, layer in enumerate(target.decoder.layers, start=1)
    ]
    with torch.inference_mode():
        target.decoder(input_ids=ids[None])
    for hook in hooks:
        hook.remove()
    return prompt, plain.token_ids, ids, states


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHANGES)
@torch.inference_mode()
def test_accepted_counts_equal_the_reference(target, answer, tmp_path, name):
    keys, extra, options, layers = CHANGES[name]
    prompt, plain, ids, states = answer
    values = json.loads((DRAFT / "config.json").read_text()) | keys
    tensors = {n: t.float() for n, t in load_file(DRAFT / "model.safetensors").items()} | extra
    (tmp_path / "config.json").write_text(json.dumps(values))
    save_file(tensors, tmp_path / "model.safetensors")
    pair = PairConfig("p", "t", "d", **options)
    draft = load_draft(tmp_path, Placement.beside(target, **placement_of(pair)))
    assert draft.feature_layers == layers
    target.keep_features(draft.feature_layers)
    decoder = Decoder(target, NUM_TOKENS)
    decoded = decoder.speculative(
        decoder.prefill(prompt), draft, draft.full_head(), GAMMA, Timeline(lambda: None)
    )
    assert decoded.token_ids == plain
    reference = ReferenceDraft(values, tensors, "eagle3", target.embedding_weight, target.head_weight)
    features = torch.cat([states[layer] for layer in layers], dim=-1)
    assert decoded.accepted == accepted_by(reference, ids, features, len(prompt), len(plain))
    if name == "nothing":
        assert sum(decoded.accepted) > 0


def accepted_by(reference, ids, features, num_prompt, num_tokens):
    """Accepted tokens of every round; a round that reaches the answer's end counts what is left of it."""
    rounds, place, end = [], num_prompt - 1, num_prompt + num_tokens
    while place + 2 < end:
        right = 0
        while right < GAMMA and place + 2 + right < end:
            drafted = int(reference.chain(ids, features, place, right).argmax())
            if drafted != int(ids[place + 2 + right]):
                break
            right += 1
        rounds.append(right)
        place += right + 1
    return rounds
