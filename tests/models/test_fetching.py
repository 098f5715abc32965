"""What comes from a hub: the configuration first, one form of the weights, and code only where it may run."""

import json

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from bench.errors import AssetError, CheckpointError
from bench.models.checkpoint import Purpose, load_draft, resolve_draft
from bench.models.draft import Placement
from bench.models.fetching import resolve_config, resolve_model, resolve_tokenizer
from tests.hub import serving
from tests.zoo.drafts import SAFEAILAB, SPECFORGE, Row, weights


@pytest.fixture
def hub(tmp_path, monkeypatch):
    root = tmp_path / "hub"
    root.mkdir()
    with serving(root) as found:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.endpoint)
        template = f"{found.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield found


def put(hub, name, **files):
    folder = hub.root / name
    folder.mkdir(parents=True)
    for path, content in files.items():
        place = folder / path.replace("__", "/")
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def publish(hub, name, files="safetensors", values=SAFEAILAB):
    folder = hub.root / name
    folder.mkdir(parents=True)
    return Row(name, values, weights(values), files=files).write(folder)


def taken(hub):
    return sorted(path.split("/", 2)[2] for path in hub.fetched)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ("bin", ["config.json", "pytorch_model.bin"]),
        ("shards", ["a.safetensors", "b.safetensors", "config.json", "model.safetensors.index.json"]),
        ("bin shards", ["a.bin", "b.bin", "config.json", "pytorch_model.bin.index.json"]),
    ],
)
def test_a_draft_is_fetched_whatever_its_weights_are_stored_as(hub, target, files, names):
    publish(hub, "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", files)
    folder = resolve_draft("yuhuili/EAGLE3-LLaMA3.1-Instruct-8B")
    assert taken(hub) == names and hub.fetched[0].endswith("config.json")
    assert load_draft(folder, Placement.beside(target)).vocab.target_vocab_size == 97


def test_nothing_is_fetched_twice(hub):
    folder = publish(hub, "meta/Llama")
    torch.save({"x": torch.ones(1)}, folder / "pytorch_model.bin")
    save_file({"x": torch.ones(1)}, folder / "consolidated.safetensors")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    (folder / "original" / "consolidated.00.pth").write_bytes(b"x")
    (folder / "modeling_llama.py").write_text("1/0")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("#")
    resolve_model("meta/Llama")
    assert taken(hub) == ["config.json", "model.safetensors", "tokenizer.json"]
    resolve_model("meta/Llama", trust_remote_code=True)
    assert taken(hub) == ["config.json", "model.safetensors", "modeling_llama.py", "tokenizer.json"]


def test_a_refused_draft_costs_no_weights(hub):
    publish(hub, "z-lab/DFlash", values={**SPECFORGE, "architectures": ["DFlashDraftModel"]})
    with pytest.raises(CheckpointError, match="a DFlash draft is not supported"):
        resolve_draft("z-lab/DFlash")
    publish(hub, "some/quantised", values={**SPECFORGE, "quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(CheckpointError, match="task=select trims it as it is"):
        resolve_draft("some/quantised")
    assert taken(hub) == ["config.json", "config.json"]
    resolve_draft("some/quantised", purpose=Purpose.TRIM)
    assert taken(hub).count("model.safetensors") == 1


def test_the_tokenizer_and_the_configuration_alone(hub):
    publish(hub, "a/b")
    (hub.root / "a/b/tokenizer.model").write_bytes(b"x")
    assert (resolve_config("a/b") / "config.json").exists()
    assert taken(hub) == ["config.json"]
    resolve_tokenizer("a/b")
    assert taken(hub) == ["config.json", "tokenizer.model"]


def test_what_was_fetched_is_there_without_a_connection(hub, monkeypatch):
    publish(hub, "a/b", "bin shards")
    folder = resolve_draft("a/b")
    publish(hub, "c/d")
    resolve_config("c/d")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert resolve_draft("a/b") == folder
    with pytest.raises(AssetError, match=r"c/d has neither model\.safetensors nor"):
        resolve_draft("c/d")
    with pytest.raises(AssetError, match="check the name and the network"):
        resolve_draft("e/f")


def test_weights_in_another_form_are_named(hub):
    put(hub, "the/gguf", **{"config.json": json.dumps(SPECFORGE), "model-Q4_K_M.gguf": "x"})
    with pytest.raises(AssetError, match=r"neither .*, but model-Q4_K_M\.gguf; convert it to safetensors"):
        resolve_draft("the/gguf")


def test_a_repository_without_a_configuration_is_named(hub):
    put(hub, "a/data", **{"train.parquet": "x"})
    with pytest.raises(
        AssetError, match=r"a/data has no config\.json; name a model in the layout of transformers"
    ):
        resolve_draft("a/data")


def test_a_repository_that_is_not_there_is_one_line(hub):
    with pytest.raises(AssetError, match="nobody/nothing.* the hub did not give it") as caught:
        resolve_draft("nobody/nothing")
    assert "\n" not in str(caught.value)
