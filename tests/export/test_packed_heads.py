"""Heads that are packed into integers across tokens are cut without a change of any quantised value."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.errors import CheckpointError
from bench.export.checkpoint import trim_lm_head
from bench.models.weights import stored
from bench.vocab.draft_vocab import DraftVocab

INPUTS, TOKENS, GROUPS = 16, 48, 2
IDS = [0, 1, 7, 8, 19, 30, 46, 47]

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def values(rows: int, seed: int, bits: int = 4):
    """Quantised values, those with the highest bit set among them."""
    return np.random.default_rng(seed).integers(0, 2**bits, (rows, TOKENS))


def pack_columns(codes, order, bits: int = 4):
    """As AutoAWQ and GPTQModel write it: group i of bits holds value order[i], lowest first."""
    per_integer = len(order)
    found = np.zeros((codes.shape[0], codes.shape[1] // per_integer), dtype=np.uint32)
    for column in range(found.shape[1]):
        for i, place in enumerate(order):
            found[:, column] |= codes[:, column * per_integer + place].astype(np.uint32) << np.uint32(
                bits * i
            )
    return torch.from_numpy(found.view(np.int32))


def scales():
    return torch.linspace(0.1, 2, GROUPS * TOKENS).reshape(GROUPS, TOKENS).half()


def cut(head, ids, tmp_path):
    vocab = DraftVocab(np.array(ids), TOKENS)
    trim_lm_head(tmp_path, vocab, tmp_path / "out", {f"lm_head.{n}": stored(t) for n, t in head.items()})
    return load_file(tmp_path / "out" / "lm_head.safetensors")


def test_awq(tmp_path):
    weights, zeros, bias = values(INPUTS, 1), values(GROUPS, 2), torch.arange(TOKENS).half()
    head = {"qweight": pack_columns(weights, AWQ_ORDER), "qzeros": pack_columns(zeros, AWQ_ORDER)}
    found = cut({**head, "scales": scales(), "bias": bias}, IDS, tmp_path)
    assert torch.equal(found["lm_head.qweight"], pack_columns(weights[:, IDS], AWQ_ORDER))
    assert torch.equal(found["lm_head.qzeros"], pack_columns(zeros[:, IDS], AWQ_ORDER))
    assert torch.equal(found["lm_head.scales"], scales()[:, IDS])
    assert torch.equal(found["lm_head.bias"], bias[IDS])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq(tmp_path, bits):
    """Its weights are packed over inputs, its zero points over tokens."""
    size = 16
    ids = list(range(3, 3 + size))
    order = range(32 // bits)
    weights = torch.from_numpy(
        np.random.default_rng(3).integers(-(2**31), 2**31, (2, TOKENS)).astype(np.int32)
    )
    zeros, groups = values(GROUPS, 4, bits), torch.arange(INPUTS, dtype=torch.int32) // 8
    head = {
        "qweight": weights,
        "qzeros": pack_columns(zeros, order, bits),
        "scales": scales(),
        "g_idx": groups,
    }
    found = cut(head, ids, tmp_path)
    assert torch.equal(found["lm_head.qweight"], weights[:, ids])
    assert torch.equal(found["lm_head.qzeros"], pack_columns(zeros[:, ids], order, bits))
    assert torch.equal(found["lm_head.g_idx"], groups)


@pytest.mark.parametrize("size", [8, 5])
def test_zero_points_of_compressed_tensors(tmp_path, size):
    """Packed over tokens, with zeros at the end; weights are packed over inputs."""
    ids = IDS[:size]
    zeros = values(GROUPS, 5)
    weights = torch.arange(TOKENS * 2, dtype=torch.int32).reshape(TOKENS, 2)
    head = {
        "weight_packed": weights,
        "weight_scale": scales().T.contiguous(),
        "weight_zero_point": pack_columns(zeros, range(8)).T.contiguous(),
        "weight_shape": torch.tensor([TOKENS, INPUTS]),
    }
    found = cut(head, ids, tmp_path)
    wanted = np.zeros((GROUPS, 8), dtype=np.int64)
    wanted[:, :size] = zeros[:, ids]
    assert torch.equal(found["lm_head.weight_zero_point"], pack_columns(wanted, range(8)).T)
    assert torch.equal(found["lm_head.weight_packed"], weights[ids])
    assert found["lm_head.weight_shape"].tolist() == [size, INPUTS]


def test_sizes_and_packings_that_do_not_fit_are_refused(tmp_path):
    head = {"qweight": pack_columns(values(INPUTS, 1), AWQ_ORDER), "scales": scales()}
    with pytest.raises(CheckpointError, match="the size must be a multiple of 8, and is 3"):
        cut(head, [1, 2, 3], tmp_path)
    head["qzeros"] = torch.zeros(GROUPS, TOKENS * 3 // 32 + 1, dtype=torch.int32)
    with pytest.raises(CheckpointError, match=r"qzeros of shape \(2, 5\) has no column for each .* bits"):
        cut(head, IDS, tmp_path)
