"""Targets with FP8 and MXFP4 weights: on a CPU they run dequantised, equal those numbers, and say so."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.models.target import load_target
from tests.conftest import HIDDEN, VOCAB_SIZE
from tests.zoo.targets import Row

CPU = torch.device("cpu")
BLOCK = 16

# The numbers of a four-bit float with two bits of exponent, by code (OCP Microscaling Formats 1.0).
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def write(row: Row, folder, change, settings) -> dict[str, torch.Tensor]:
    """Makes the row's folder with other weights; `change` gives (stored, as numbers) of each, or None."""
    row.write(folder)
    stored, plain = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        new = change(name, tensor)
        stored |= {name: tensor} if new is None else new[0]
        plain[name] = tensor if new is None else new[1]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text()) | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(values))
    return plain


def fp8(name, tensor):
    if "_proj." not in name:
        return None
    rows, columns = (n // BLOCK for n in tensor.shape)
    blocks = tensor.view(rows, BLOCK, columns, BLOCK)
    scales = blocks.abs().amax((1, 3)) / 448
    codes = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    numbers = (codes.float() * scales[:, None, :, None]).view(tensor.shape)
    return {name: codes.view(tensor.shape), f"{name}_scale_inv": scales}, numbers


def mxfp4(name, tensor):
    if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return None
    generator = torch.Generator().manual_seed(len(name))
    experts, inside, outside = tensor.shape
    groups = (experts, outside, inside // 32)
    codes = torch.randint(0, 16, (*groups, 32), generator=generator)
    exponents = torch.randint(-5, -2, groups, generator=generator)
    numbers = (FP4[codes] * 2.0 ** exponents[..., None]).view(experts, outside, inside).transpose(1, 2)
    packed = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    return {f"{name}_blocks": packed, f"{name}_scales": (exponents + 127).to(torch.uint8)}, numbers


@pytest.mark.parametrize(
    ("row", "change", "settings"),
    [
        (
            Row("FP8", "llama"),
            fp8,
            {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]},
        ),
        (
            Row("MXFP4", "gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8,
                "sliding_window": 4, "intermediate_size": 64}),
            mxfp4,
            {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head", "model.embed_tokens"]},
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
@torch.inference_mode()
def test_quantised_weights_run_dequantised_and_it_is_said(row, change, settings, tmp_path):
    numbers = write(row, tmp_path, change, settings)
    target = load_target(tmp_path, CPU, torch.float32)
    method = settings["quant_method"]
    said = f"the target's {method} weights ran dequantised, slower than an engine's kernels run them"
    assert target.notes == (said,)
    model = row.model()
    model.load_state_dict(numbers, strict=False)
    ids = torch.randint(4, VOCAB_SIZE, (1, 12), generator=torch.Generator().manual_seed(1))
    expected = model(input_ids=ids).logits[0]
    found = target.lm_head(target.forward(ids, target.new_cache()).hidden)[0]
    assert target.config.hidden_size == HIDDEN
    # Transformers dequantises to bfloat16.
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))
