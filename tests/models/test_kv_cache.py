import torch
from transformers import DynamicCache

from bench.models.layers import InPlaceLayer, KVCache


def states(n: int, seed: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 2, n, 4, generator=torch.Generator().manual_seed(seed))


def test_matches_the_stock_cache_over_growth():
    ours, stock = KVCache(1), DynamicCache()
    for seed, n in enumerate((3, 1, 700, 4)):
        k, v = states(n, seed), states(n, seed + 100)
        for mine, theirs in zip(ours.update(k, v, 0), stock.update(k, v, 0), strict=True):
            assert torch.equal(mine, theirs)
    assert ours.length == stock.get_seq_length() == 708


def test_rewind_forgets_and_overwrites():
    layer = InPlaceLayer()
    layer.update(states(5, 0), states(5, 1))
    layer.rewind(2)
    assert layer.get_seq_length() == 2
    keys, _ = layer.update(states(1, 2), states(1, 3))
    assert torch.equal(keys, torch.cat([states(5, 0)[:, :, :2], states(1, 2)], dim=2))


def test_rewind_to_a_longer_length_changes_nothing():
    layer = InPlaceLayer()
    layer.update(states(3, 0), states(3, 1))
    layer.rewind(9)
    assert layer.get_seq_length() == 3


def test_rows_repeat_and_select():
    cache = KVCache(1)
    k = states(3, 0, batch=2)
    cache.update(k, k, 0)
    cache.repeat_rows(2)
    cache.select_rows(torch.tensor([0, 3]))
    keys, _ = cache.update(states(1, 5, batch=2), states(1, 6, batch=2), 0)
    assert torch.equal(keys[:, :, :3], k)
