"""The engine's heads while domains take turns."""

import numpy as np

from bench.decoding.torch_engine import TorchEngine
from bench.device.cpu import CpuDevice
from bench.variant import Variant
from tests.conftest import VOCAB_SIZE, make_draft, make_target

TARGET = make_target()
DRAFT = make_draft(TARGET)


def test_heads_of_the_last_orders_are_kept_and_each_order_has_its_own(monkeypatch):
    made, head = [], type(DRAFT).head
    monkeypatch.setattr(type(DRAFT), "head", lambda self, vocab: made.append(vocab) or head(self, vocab))
    engine = TorchEngine(CpuDevice(), TARGET, DRAFT, 8, seed=0)
    made.clear()  # the whole head
    rng = np.random.default_rng(0)
    orders = [rng.permutation(VOCAB_SIZE) for _ in range(5)]

    def load(index):
        engine.use_order(orders[index])
        engine.load(Variant(20, 2))
        return len(made)

    assert [load(index) for index in (0, 1, 2, 0, 1, 2)] == [1, 2, 3, 3, 3, 3]
    for vocab, order in zip(made, orders, strict=False):
        assert vocab.target_ids.tolist() == sorted(order[:20])
    # With two more, only the last four are kept.
    assert [load(index) for index in (3, 4, 1, 2, 3, 4)] == [4, 5, 5, 5, 5, 5]
    assert load(0) == 6
