"""Exports as SGLang 0.5.23 loads them, rule by rule of its loader; SGLang itself needs a GPU.

The rules are those of `srt/models/llama_eagle3.py` (`load_weights`), `srt/speculative/eagle_worker_v2.py`
(`init_token_map`, `init_lm_head`) and `srt/models/llama.py` (`set_embed`).
"""

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.cost.config_json import DraftKind
from bench.export.bundle import _commands
from bench.export.checkpoint import trim_eagle3
from bench.models.checkpoint import load_draft
from bench.models.draft import Placement
from bench.models.draft_config import Layout
from tests.conftest import VOCAB_SIZE, make_target
from tests.export.conftest import HEAD, trim, vocab_of

STACKED = {
    ".q_proj": (".qkv_proj", 0), ".k_proj": (".qkv_proj", 1), ".v_proj": (".qkv_proj", 2),
    ".gate_proj": (".gate_up_proj", 0), ".up_proj": (".gate_up_proj", 1),
}  # fmt: skip

ENTRY_CLASSES = {"LlamaForCausalLMEagle3"}


class SglangDraft:
    """What SGLang holds after loading: parameters by its names, and `hot_token_id`."""

    def __init__(self, folder: Path, target_embedding: torch.Tensor, target_head: torch.Tensor):
        config = json.loads((folder / "config.json").read_text())
        assert ENTRY_CLASSES & set(config["architectures"]), "SGLang finds no such model"
        self.rows = config["draft_vocab_size"] if config.get("draft_vocab_size") else config["vocab_size"]
        shapes = self._shapes(config)
        shards: dict[str, dict[int, torch.Tensor]] = {name: {} for name in shapes}
        self.hot_token_id, self.dropped = None, []
        for name, tensor in load_file(folder / "model.safetensors").items():
            name = name.replace("midlayer", "layers.0")
            if "d2t" in name:
                self.hot_token_id = tensor + torch.arange(tensor.shape[0])
                continue
            if "t2d" in name:
                continue
            place = 0
            for part, (whole, at) in STACKED.items():
                if part in name:
                    name, place = name.replace(part, whole), at
                    break
            known = name if name in shapes else f"model.{name}"
            if known in shapes:
                shards[known][place] = tensor
            else:
                self.dropped.append(name)  # without a word
        self.parameters = {n: torch.cat([s[at] for at in sorted(s)]) for n, s in shards.items() if s}
        # Its head is that of the target only where the configuration has no size; the embedding always is.
        if config.get("draft_vocab_size") is None and not config["tie_word_embeddings"]:
            self.parameters["lm_head.weight"] = target_head
        if config.get("target_hidden_size", config["hidden_size"]) == config["hidden_size"]:
            self.parameters["model.embed_tokens.weight"] = target_embedding
        self.missing = set(shapes) - set(self.parameters)
        self.wrong = {n: (p.shape, shapes[n]) for n, p in self.parameters.items() if p.shape != shapes[n]}

    def _shapes(self, config) -> dict[str, tuple[int, ...]]:
        """Parameters that it makes from the configuration."""
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        width = config["head_dim"]
        heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
        layer = "model.layers.0"
        return {
            "model.embed_tokens.weight": (config["vocab_size"], hidden),
            "model.fc.weight": (hidden, 3 * config.get("target_hidden_size", hidden)),
            f"{layer}.self_attn.qkv_proj.weight": ((heads + 2 * kv) * width, 2 * hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, heads * width),
            f"{layer}.mlp.gate_up_proj.weight": (2 * inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
            **{
                f"{layer}.{name}.weight": (hidden,)
                for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm")
            },
            "model.norm.weight": (hidden,),
            "lm_head.weight": (self.rows, hidden),
        }

    def propose(self, normed: torch.Tensor) -> torch.Tensor:
        """Target ids of the best token, as `hot_token_id[topk_index]`."""
        best = (normed @ self.parameters["lm_head.weight"].float().T).argmax(-1)
        return best if self.hot_token_id is None else self.hot_token_id[best]


@pytest.mark.parametrize("ids", [[0, 1, 5, 40, 96], [7], range(VOCAB_SIZE)], ids=["five", "one", "all"])
def test_a_trimmed_draft_loads_whole_and_proposes_the_tokens_that_were_measured(source, tmp_path, ids):
    target, ids = make_target(), list(ids)
    head = target.head_weight.detach().clone()
    folder = trim(source, ids, tmp_path / "out", head=head)
    found = SglangDraft(folder, target.embedding_weight, head)
    assert not found.dropped and not found.missing and not found.wrong
    assert found.rows == len(ids)
    assert (found.hot_token_id is None) == (len(ids) == VOCAB_SIZE)
    ours = load_draft(folder, Placement.beside(target))
    normed = torch.randn(32, head.shape[1], generator=torch.Generator().manual_seed(4))
    best = (normed @ ours.head_weight.float().T).argmax(-1)
    assert found.propose(normed).tolist() == torch.tensor(ours.vocab.target_ids)[best].tolist()
    # Its own layer is ours, to the bit.
    tensors = load_file(folder / "model.safetensors")
    for place, name in enumerate(("q_proj", "k_proj", "v_proj")):
        part = tensors[f"midlayer.self_attn.{name}.weight"]
        start = sum(tensors[f"midlayer.self_attn.{n}.weight"].shape[0] for n in ("q_proj", "k_proj")[:place])
        whole = found.parameters["model.layers.0.self_attn.qkv_proj.weight"]
        assert torch.equal(whole[start : start + len(part)], part)


def test_the_checks_notice_what_would_be_dropped_or_taken_from_the_target(source, tmp_path):
    """The loader above can fail: on a layout that SGLang does not read, on a configuration without a size."""
    target = make_target()
    head = target.head_weight.detach().clone()
    other = trim(source, [1, 2], tmp_path / "other", Layout.SPECULATORS, head)
    values = json.loads((other / "config.json").read_text())
    assert not ENTRY_CLASSES & set(values["architectures"])
    folder = trim(source, [1, 2], tmp_path / "out", head=head)
    values = json.loads((folder / "config.json").read_text())
    del values["draft_vocab_size"]
    (folder / "config.json").write_text(json.dumps(values))
    assert SglangDraft(folder, target.embedding_weight, head).parameters["lm_head.weight"].shape == head.shape


def test_an_embedding_of_the_draft_is_replaced_by_the_targets(source, tmp_path):
    """So that a draft whose embedding is not the target's computes something else in SGLang."""
    out = tmp_path / "out"
    trim_eagle3(source, vocab_of([4, 9]), HEAD, Layout.SAFEAILAB, out, "t", target_embedding=HEAD + 1)
    assert torch.equal(SglangDraft(out, HEAD, HEAD).parameters["model.embed_tokens.weight"], HEAD)


def test_the_command_asks_for_a_chain_and_for_no_token_map():
    """SGLang ignores a map for EAGLE-3, and gamma steps of a chain verify gamma + 1 tokens."""
    line = _commands("t", 3, Path("out"), Path("d"), DraftKind.EAGLE3, False)["SGLang"]
    words = shlex.split(line)
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--speculative-algorithm"] == "EAGLE3" and options["--speculative-eagle-topk"] == "1"
    assert options["--speculative-num-steps"] == "3" and options["--speculative-num-draft-tokens"] == "4"
    assert options["--speculative-draft-model-path"] == "out/exports/draft"
    assert "--speculative-token-map" not in options
    older = _commands("t", 3, Path("out"), Path("d"), DraftKind.EAGLE, False)["SGLang"]
    assert "--speculative-token-map out/exports/sglang/token_map.pt" in older
