import pytest
import torch

from bench.errors import AssetError, DomainError
from bench.models.draft_config import default_feature_layers
from bench.models.fetching import resolve_model


def test_default_feature_layers_are_the_engines_own():
    assert default_feature_layers(30) == (2, 15, 27)
    assert default_feature_layers(32) == (2, 16, 29)


@torch.inference_mode()
def test_lean_runner_equals_transformers(target):
    ids = torch.randint(2, 90, (1, 12))
    lean, stock = target.new_cache(), target.new_cache()
    assert target.runner == "lean"
    for piece in (ids[:, :7], ids[:, 7:8], ids[:, 8:]):
        ours, theirs = target.forward(piece, lean), target.forward_batch(piece, stock)
        torch.testing.assert_close(ours.hidden, theirs.hidden, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.features, theirs.features, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_features_are_the_states_after_the_feature_layers(target):
    ids = torch.randint(2, 90, (1, 5))
    states = target.model(ids, output_hidden_states=True).hidden_states
    expected = torch.cat([states[layer] for layer in target.feature_layers], dim=-1)
    features = target.forward(ids, target.new_cache()).features
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_too_long_a_prompt_is_refused(target):
    with pytest.raises(DomainError, match="256 positions; lower domain.max_prompt_tokens"):
        target.forward(torch.zeros(1, 257, dtype=torch.long), target.new_cache())


def test_an_unknown_model_names_the_catalogue_and_the_mend(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AssetError, match="smollm2-135m-instruct.*give a local folder"):
        resolve_model("nobody/no-such-model")
