"""Rotary frequencies against `transformers`' own, which is another implementation of the same formulas."""

import math

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from bench.models.rope import Rope, rope_of, rope_problem

POSITIONS = 256

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        LLAMA3,
        YARN,
        {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
        {**YARN, "mscale": 0.7, "mscale_all_dim": 0.5},
        {**YARN, "attention_factor": 1.5},
        {**YARN, "truncate": False},
    ],
    ids=["linear", "llama3", "yarn", "betas", "mscale", "attention_factor", "untruncated"],
)
def test_scaled_frequencies_are_those_of_transformers(scaling, head_dim):
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=POSITIONS,
        rope_parameters={**scaling, "rope_theta": 500000.0},
    )
    expected, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, "cpu")
    rope = rope_of({"rope_theta": 500000.0, "rope_scaling": scaling})
    found, found_factor = rope.frequencies(head_dim, POSITIONS)
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-6)
    assert found_factor == pytest.approx(factor)


def test_dynamic_scaling_changes_nothing_up_to_the_positions_it_was_trained_on():
    plain, _ = Rope().frequencies(8, POSITIONS)
    rope = rope_of({"rope_scaling": {"type": "dynamic", "factor": 4.0}})
    np.testing.assert_array_equal(rope.frequencies(8, POSITIONS)[0], plain)
    # vLLM: base x (4 x 256 / 128 - 3) ^ (8 / 6)
    rope = rope_of({"rope_scaling": {"type": "dynamic", "factor": 4.0, "max_trained_positions": 128}})
    assert rope.frequencies(8, POSITIONS)[0][1] == pytest.approx((10000 * 5 ** (8 / 6)) ** (-2 / 8))
    rope = rope_of({"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}})
    assert rope.frequencies(8, POSITIONS)[0][3] == pytest.approx((10000 * 1000 ** (8 / 6)) ** (-6 / 8))


def test_mrope_of_text_is_plain_and_both_spellings_say_the_same():
    old = rope_of({"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}})
    assert old == rope_of({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}) == Rope(1e6)
    assert rope_of({}) == Rope(10000.0)
    assert rope_of({"rope_theta": 5.0, "rope_parameters": LLAMA3}).theta == 5.0


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"rope_type": "longrope", "short_factor": [1.0]}, "longrope is none of default, dynamic, linear"),
        ({"rope_type": "llama3", "factor": 8.0}, "llama3 needs low_freq_factor and high_freq_factor"),
        ({"type": "yarn", "factor": 4.0}, "yarn needs original_max_position_embeddings"),
        ({"type": "dynamic"}, "alpha or factor"),
        ({"type": "linear", "factor": 2.0, "twist": 1}, "twist is not known"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ([1], "a block of settings"),
    ],
)
def test_what_cannot_be_honoured_is_said(parameters, problem):
    assert problem in rope_problem(parameters)


def test_known_settings_have_no_problem():
    for parameters in (
        LLAMA3,
        YARN,
        {"type": "mrope", "mrope_section": [16, 24, 24]},
        {"rope_type": "default"},
    ):
        assert rope_problem(parameters) is None


def test_the_first_frequency_turns_once_in_two_pi_positions():
    assert Rope(1234.5).frequencies(16, POSITIONS)[0][0] == 1.0
    assert 2 * math.pi / Rope(16.0).frequencies(4, POSITIONS)[0][1] == pytest.approx(2 * math.pi * 4)
