"""Every target of the zoo runs and equals `transformers` over a whole text, or is refused with the reason."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bench.errors import BenchError, CheckpointError, DeviceError
from bench.models.causal_lm import check_devices
from bench.models.target import Target, load_target
from tests.conftest import VOCAB_SIZE
from tests.zoo.targets import REFUSED, RUNS

LENGTH = 20
LAYERS = (1, 4, 8)
CPU = torch.device("cpu")


def test_the_zoo_is_large_enough():
    names = [row.name for row in (*RUNS, *REFUSED)]
    assert len(set(names)) == len(names) and len(names) >= 30


@pytest.mark.parametrize("row", RUNS, ids=lambda row: row.name)
@torch.inference_mode()
def test_a_target_that_runs_equals_transformers(row, tmp_path):
    target = load_target(row.write(tmp_path), CPU, torch.float32)
    assert target.runner == row.runner and target.vocab_size == VOCAB_SIZE
    ids = torch.randint(4, VOCAB_SIZE, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    model = row.model()
    logits, states = of_transformers(model, ids)
    target.keep_features(LAYERS)
    cache = target.new_cache()
    # A prompt; a verification of which two tokens are right, then one of which none is, then the rest.
    pieces = [target.forward(ids[:, :7], cache)]
    for first, right, wrong in ((7, 2, [3, 9, 11]), (9, 0, [5, 8])):
        tried = torch.cat([ids[:, first : first + right], torch.tensor([wrong])], dim=1)
        output = target.forward(tried, cache)
        cache.rewind(first + right)
        assert cache.length == first + right
        if right:
            pieces.append(cut(output, right))
    pieces.append(target.forward(ids[:, 9:], cache))
    hidden = torch.cat([piece.hidden for piece in pieces], dim=1)
    torch.testing.assert_close(target.lm_head(hidden)[0], logits, rtol=1e-3, atol=2e-4)
    features = torch.cat([piece.features for piece in pieces], dim=1)[0]
    expected = torch.cat([states[layer] for layer in LAYERS], dim=-1)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    # Further back than the last pass, as a repeated measurement goes; by compiled layers too, if it has any.
    can_be_fused = row.runner == "lean" and find_spec("numba") is not None
    assert (target.fused_obstacle is None) is can_be_fused
    for is_fused in (False, True) if can_be_fused else (False,):
        target.fuse(is_fused)
        cache.rewind(7)
        again = target.forward(ids[:, 7:], cache)
        torch.testing.assert_close(target.lm_head(again.hidden)[0], logits[7:], rtol=1e-3, atol=2e-4)
        most = 1e-3 * float(expected.abs().max())
        torch.testing.assert_close(again.features[0], expected[7:], rtol=1e-3, atol=most)


@torch.inference_mode()
def of_transformers(model, ids):
    """Logits over the whole text in one pass, and what every layer puts out."""
    decoder = model.get_decoder()
    decoder = decoder.model if hasattr(decoder, "lm_head") else decoder
    layers, states = getattr(decoder, "layers", None) or decoder.h, {}
    for index, layer in enumerate(layers, start=1):
        layer.register_forward_hook(
            lambda _m, _i, out, at=index: states.__setitem__(
                at, (out[0] if isinstance(out, tuple) else out)[0]
            )
        )
    return model(input_ids=ids, use_cache=False).logits[0], states


def cut(output, number):
    return type(output)(output.hidden[:, :number], output.features[:, :number])


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_a_target_that_cannot_run_is_refused_in_one_line(row, tmp_path):
    folder = row.write(tmp_path)
    if row.name == "weights left out":
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.norm.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BenchError, match=row.refusal) as caught:
        load_target(folder, CPU, torch.float32)
    assert "\n" not in str(caught.value)


SPREAD = ("Llama", "Qwen3", "Gemma 2: soft caps, sliding window", "LFM2: convolutions")


@pytest.mark.parametrize("row", [r for r in RUNS if r.name in SPREAD], ids=lambda row: row.name)
@torch.inference_mode()
def test_a_target_in_several_places_equals_the_whole_one(row, tmp_path):
    """A CPU has no second device: layers fetched for each pass go the same way as those of another."""
    row.write(tmp_path)
    parts = [name for name, _ in row.model().model.named_children() if name != "layers"]
    names = {"lm_head": "cpu", **{f"model.{name}": "cpu" for name in parts}}
    names |= {f"model.layers.{i}": "disk" if i in (2, 3) else "cpu" for i in range(8)}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, device_map=names, offload_folder=tmp_path / "offloaded"
    )
    target = Target(model.eval().requires_grad_(False), None)
    assert target.devices == ("cpu", "disk") and (target.runner, target.num_packed) == ("transformers", 0)
    ids = torch.randint(4, VOCAB_SIZE, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    logits, states = of_transformers(row.model(), ids)
    target.keep_features(LAYERS)
    cache = target.new_cache()
    pieces = [target.forward(ids[:, :9], cache)]
    cache.rewind(7)
    pieces = [cut(pieces[0], 7), target.forward(ids[:, 7:], cache)]
    found = torch.cat([target.lm_head(piece.hidden) for piece in pieces], dim=1)[0]
    torch.testing.assert_close(found, logits, rtol=1e-3, atol=2e-4)
    features = torch.cat([piece.features for piece in pieces], dim=1)[0]
    expected = torch.cat([states[layer] for layer in LAYERS], dim=-1)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_what_a_device_map_leaves_beside_the_gpus_is_refused():
    folder = Path("target")
    check_devices(("cuda:0", "cuda:1"), "cuda:0", folder)
    check_devices(("cpu",), "cpu", folder)
    for devices in (("cpu", "cuda:0"), ("cuda:0", "disk")):
        with pytest.raises(CheckpointError, match="target does not fit: .* on (cpu|disk), and"):
            check_devices(devices, "cuda:0", folder)
    with pytest.raises(DeviceError, match="on cuda:0 and cuda:1, and the measured device is cuda:2; choose"):
        check_devices(("cuda:0", "cuda:1"), "cuda:2", folder)


def test_a_device_map_on_one_device_is_an_ordinary_target(tmp_path):
    target = load_target(RUNS[0].write(tmp_path), CPU, torch.float32, device_map="auto")
    assert (target.devices, target.runner, target.notes) == (("cpu",), "lean", ())
