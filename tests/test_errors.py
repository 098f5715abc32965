import pytest
import torch

from bench.errors import CheckpointError, DeviceError, is_out_of_memory, memory_for
from bench.models import causal_lm


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes."),
    ],
)
def test_memory_that_runs_out_is_one_line(error):
    with pytest.raises(DeviceError) as caught, memory_for("the models were loaded"):
        raise error
    text = str(caught.value)
    assert text.startswith("memory ran out while the models were loaded: ") and "\n" not in text
    assert "GPU 0 has" not in text and is_out_of_memory(error)


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="^shapes$"), memory_for("loading"):
        raise RuntimeError("shapes")


def test_a_target_that_does_not_fit_is_not_called_damaged(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')

    def fails(*_, **__):
        raise MESSAGE

    class Stub:
        from_pretrained = staticmethod(fails)

    monkeypatch.setattr(causal_lm, "plan_target", lambda *_: type("Plan", (), {"auto_class": "Stub"}))
    monkeypatch.setattr(causal_lm.transformers, "Stub", Stub, raising=False)
    global MESSAGE
    MESSAGE = torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(DeviceError, match="memory ran out while loading"), memory_for("loading"):
        causal_lm.load_causal_lm(tmp_path, torch.float32)
    MESSAGE = RuntimeError("bad file")
    with pytest.raises(CheckpointError, match="bad file"):
        causal_lm.load_causal_lm(tmp_path, torch.float32)
