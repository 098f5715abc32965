"""Files of an export are read back; its command lines are those of engines that compute what was measured."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.config import PairConfig
from bench.config.select import SelectConfig
from bench.cost.config_json import DraftKind
from bench.export.bundle import Export, serve_commands, write_exports
from bench.export.checkpoint import has_same_rows
from bench.export.gguf_files import read_gguf_vocab
from bench.export.readers import read_map
from bench.export.vocab_maps import Provenance
from bench.models.engines import LLAMA_CPP, SGLANG, VLLM
from bench.models.mtp import OF_TARGET
from bench.models.weights import stored
from tests.conftest import VOCAB_SIZE
from tests.export.conftest import vocab_of
from tests.zoo.mtp_rows import ROWS
from tests.zoo.targets import Row

IDS = [0, 1, 5, 9, 40, 96]
QWEN, GLM, LLAMA = (
    next(row for row in ROWS if row.model_type == kind) for kind in ("qwen3_5_text", "glm4_moe", "llama")
)
MAPS = (
    *("draft_vocab.safetensors", "token_ids/ids.txt", "token_ids/ids.json", "token_ids/ids.i32"),
    *("sglang/token_map.pt", "fr_spec/freq_6.pt", "specforge/vocab_mapping.pt", "speculators/d2t.npy"),
)


def exported(folder, target, draft, kind, ids=IDS, draft_folder=None):
    """The written export, and its commands."""
    chosen = vocab_of(ids)
    provenance = Provenance(
        version="0", command="python -m bench", pair="pair", domain="d", target=str(target),
        target_revision=None, tokenizer_hash="h", source_id="sha256:0", ranking={"d": 1.0},
        responses="dataset", vocab_size=len(chosen), target_vocab_size=VOCAB_SIZE, coverage_train=0.9,
        coverage_heldout=None, content_hash=chosen.content_hash, num_ranking_tokens=35,
    )  # fmt: skip
    export = Export(
        chosen=chosen,
        counts=np.ones(VOCAB_SIZE, dtype=np.int64),
        must_keep=[0],
        provenance=provenance,
        pair=PairConfig("pair", str(target), str(draft)),
        draft_folder=draft_folder or target,
        kind=kind,
        settings=SelectConfig(),
    )
    folder.mkdir()
    write_exports(folder, export)
    return folder / "exports", serve_commands(export, "target", 3, folder, folder / "exports")


def mtp(row, tmp_path, ids=IDS):
    target = tmp_path / "target"
    target.mkdir()
    row.write(target)
    return exported(tmp_path / "out", target, OF_TARGET, DraftKind.MTP, ids)


@pytest.mark.parametrize("row", [QWEN, GLM, LLAMA], ids=lambda row: row.name)
def test_every_file_of_an_mtp_module_is_read_back(row, tmp_path):
    out, _ = mtp(row, tmp_path)
    for name in MAPS:
        assert read_map(out / name, VOCAB_SIZE).target_ids.tolist() == IDS, name
    assert (out / "token_ids" / "ids.txt").read_text().split() == [str(number) for number in IDS]
    assert json.loads((out / "token_ids" / "ids.json").read_text()) == IDS
    assert np.fromfile(out / "token_ids" / "ids.i32", dtype="<i4").tolist() == IDS
    written, whole = (
        load_file(out / "draft" / "model.safetensors"),
        load_file(tmp_path / "target" / "model.safetensors"),
    )
    own = [name for name in whole if name.startswith(row.prefix)]
    head = next((name for name in own if name.endswith("shared_head.head.weight")), "lm_head.weight")
    for name in set(own) - {head}:
        assert torch.equal(written[name], whole[name])
    rows = [tensor for name, tensor in written.items() if name.endswith(("head.weight", "lm_head.weight"))]
    assert len(rows) == 1 and torch.equal(rows[0], whole[head][IDS])
    if row is LLAMA:
        assert not (out / "draft.gguf").exists()
    else:
        assert read_gguf_vocab(out / "draft.gguf", VOCAB_SIZE).target_ids.tolist() == IDS


def test_llama_cpp_is_given_a_sidecar_that_it_reads(tmp_path):
    out, commands = mtp(QWEN, tmp_path)
    assert (
        f"--spec-type draft-mtp --spec-draft-model {out / 'draft.gguf'} --spec-draft-n-max 3"
        in (commands[LLAMA_CPP])
    )
    assert commands[LLAMA_CPP].endswith("# since its pull request 29143, which was open in November 2026")
    assert "--speculative-algorithm NEXTN" in commands[SGLANG]
    assert commands[VLLM].startswith("not loaded")


def test_a_whole_head_needs_no_pull_request(tmp_path):
    _, commands = mtp(GLM, tmp_path, range(VOCAB_SIZE))
    assert commands[LLAMA_CPP].endswith("--spec-draft-n-max 3")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (GLM, "not loaded: the MTP layer of its glm4moe reads no d2t"),
        (LLAMA, "not loaded: it has no MTP layer for a target of model_type=llama"),
    ],
    ids=["no d2t", "no layer"],
)
def test_what_keeps_llama_cpp_from_a_module_is_said_in_one_line(row, said, tmp_path):
    assert mtp(row, tmp_path)[1][LLAMA_CPP] == said


@pytest.mark.parametrize("change", [0.0, 1.0])
def test_sglang_replaces_an_embedding_of_the_drafts_own(source, tmp_path, change):
    """In the types of a checkpoint it may be a rounded copy of the target's, and is the same then."""
    target, draft = tmp_path / "target", tmp_path / "source"
    for folder in (target, draft):
        folder.mkdir()
    Row("Llama", "llama").write(target)
    embedding = load_file(target / "model.safetensors")["model.embed_tokens.weight"]
    tensors = load_file(source / "model.safetensors")
    own = (embedding + change).bfloat16()
    save_file({**tensors, "embed_tokens.weight": own}, draft / "model.safetensors")
    (draft / "config.json").write_text((source / "config.json").read_text())
    _, commands = exported(tmp_path / "out", target, draft, DraftKind.EAGLE3, draft_folder=draft)
    objection = "not loaded as measured: it takes the target's input embedding, and the draft has another"
    assert (commands[SGLANG] == objection) is bool(change)
    assert commands[VLLM].startswith("vllm serve")


def test_rows_are_compared_in_the_narrower_type():
    first = torch.linspace(0, 1, 12).reshape(4, 3)
    assert has_same_rows(stored(first), stored(first[:3].bfloat16()))
    assert not has_same_rows(stored(first), stored(first.bfloat16() + 1))
    assert not has_same_rows(stored(first), stored(first.reshape(3, 4)))
