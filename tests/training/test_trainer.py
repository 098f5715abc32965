from dataclasses import replace

import pytest
import torch

from bench.errors import AssetError
from bench.training.data import Sequence, batches, load_sequences
from bench.training.trainer import Muon, Objective, Trainer, TrainSettings, orthogonalise
from tests.conftest import HIDDEN, VOCAB_SIZE, make_body, make_target

SETTINGS = TrainSettings(
    steps=4, batch_size=2, depths=2, warmup_steps=1, frequent_tokens=50, sampled_tokens=10, seed=1
)


def sequences(num: int = 6) -> list[Sequence]:
    generator = torch.Generator().manual_seed(0)
    return [
        Sequence(
            "code",
            torch.randint(2, VOCAB_SIZE, (12,), generator=generator),
            torch.randn(11, 4 * HIDDEN, generator=generator),
            5,
        )
        for _ in range(num)
    ]


def train(folder, settings=SETTINGS):
    target, body = make_target(), make_body()
    objective = Objective(body, target.embedding_weight, target.head_weight, settings.depths)
    trainer = Trainer(objective, sequences(), settings, folder)
    return body, trainer.run()


def test_training_lowers_the_loss(tmp_path):
    _, log = train(tmp_path, replace(SETTINGS, steps=30))
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]


def test_a_resumed_training_ends_where_an_undisturbed_one_ends(tmp_path, monkeypatch):
    # The schedule depends on the number of steps, which is how the first half is stopped here.
    monkeypatch.setattr(Trainer, "_schedule", lambda self, step: 1.0)
    monkeypatch.setattr(Trainer, "_identity", lambda self: "the same")
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    whole, log = train(tmp_path / "whole")
    train(tmp_path / "halves", replace(SETTINGS, steps=2))
    resumed, resumed_log = train(tmp_path / "halves")
    assert resumed_log == log
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    train(tmp_path, replace(SETTINGS, steps=2))
    with pytest.raises(AssetError, match="checkpoint.pt was trained with other settings or data"):
        train(tmp_path, replace(SETTINGS, steps=3))


def test_batches_continue_exactly():
    items = sequences(7)
    whole = batches(items, 2, seed=3, first_step=0)
    expected = [next(whole).tokens for _ in range(8)]
    later = batches(items, 2, seed=3, first_step=5)
    assert all(torch.equal(next(later).tokens, tokens) for tokens in expected[5:])


def test_orthogonalise_makes_singular_values_alike():
    torch.manual_seed(0)
    for shape in ((12, 40), (40, 12), (16, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.max() < 1.3 and values.min() > 0.3


def test_muon_moves_against_the_gradient_by_the_learning_rate():
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.5)
    weight.grad = torch.eye(8)
    optimizer.step()
    assert (weight.diagonal() < 0).all()
    assert weight.detach().pow(2).mean().sqrt().item() == pytest.approx(0.5 * 0.2, rel=0.3)


def test_no_shards_is_a_clear_error(tmp_path):
    with pytest.raises(AssetError, match="no training shards"):
        load_sequences(tmp_path)
