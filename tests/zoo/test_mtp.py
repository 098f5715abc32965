"""MTP modules of every layout equal a plain reference, in logits and in accepted tokens."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.config import PairConfig
from bench.decoding.decoder import Decoder
from bench.decoding.rounds import Timeline
from bench.device import open_device
from bench.errors import CheckpointError
from bench.models.draft import Placement
from bench.models.mtp import load_mtp, open_mtp
from bench.models.target import load_target
from bench.runs.pair import load_pair
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import VOCAB_SIZE
from tests.zoo.mtp_rows import ROWS
from tests.zoo.reference import assert_chains
from tests.zoo.reference_mtp import ReferenceModule
from tests.zoo.targets import LONGROPE

CPU = torch.device("cpu")
LENGTH, DEPTHS = 14, 3


def loaded(row, folder):
    tensors = row.write(folder)
    target = load_target(folder, CPU, torch.float32)
    draft = load_mtp(folder, Placement.beside(target))
    target.keep_features(draft.feature_layers)
    embedding = tensors.get(f"{row.prefix}embed_tokens.weight", target.embedding_weight)
    return target, draft, ReferenceModule(target.config, tensors, row.prefix, embedding, target.head_weight)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@torch.inference_mode()
def test_a_module_equals_the_reference(row, tmp_path):
    target, draft, reference = loaded(row, tmp_path)
    ids = torch.randint(4, VOCAB_SIZE, (LENGTH,), generator=torch.Generator().manual_seed(1))
    features = target.forward(ids[None], target.new_cache()).features[:, :-1]
    places = (3, 7, LENGTH - 1 - DEPTHS)
    truth = {
        (place, depth): reference.chain(ids, features[0], place, ids[place + 2 : place + 2 + depth].tolist())
        for place in places
        for depth in range(DEPTHS)
    }
    assert_chains(draft, ids, features, truth, atol=5e-4)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@torch.inference_mode()
def test_decoding_accepts_what_the_reference_drafts(row, tmp_path):
    target, draft, reference = loaded(row, tmp_path)
    decoder, total = Decoder(target, 9), 0
    for start in range(5, 10):
        prompt = [0, *range(start, start + 5)]
        prefill = decoder.prefill(prompt)
        plain = decoder.plain(prefill, Timeline(lambda: None)).token_ids
        # A head of the tokens that come next, so that a random draft is right now and then.
        kept = sorted(set(plain))
        head = draft.head(DraftVocab(np.array(kept), VOCAB_SIZE))
        answer = decoder.speculative(prefill, draft, head, DEPTHS, Timeline(lambda: None))
        assert answer.token_ids == plain
        ids = torch.tensor(prompt + plain)
        features = target.forward(ids[None], target.new_cache()).features[0]
        place, accepted = len(prompt) - 1, []
        while place + 2 < len(ids):
            drafted = []
            for _ in range(DEPTHS):
                drafted.append(kept[int(reference.chain(ids, features, place, drafted)[kept].argmax())])
            right = [token == int(true) for token, true in zip(drafted, ids[place + 2 :], strict=False)]
            accepted.append([*right, False].index(False))
            place += accepted[-1] + 1
        # At the end of an answer a round can accept tokens that are beyond it.
        assert answer.accepted[: len(accepted) - 1] == accepted[:-1]
        assert not accepted or answer.accepted[-1] >= accepted[-1]
        total += sum(accepted)
    assert total


@torch.inference_mode()
def test_the_pair_of_a_target_and_its_own_module_reads_only_the_shards_that_hold_it(tmp_path):
    ROWS[1].write(tmp_path)
    shard(tmp_path, {"mtp.": "model-00002.safetensors"}, rest="model-00001.safetensors")
    rest = (tmp_path / "model-00001.safetensors").read_bytes()
    (tmp_path / "model-00001.safetensors").write_bytes(b"not read")
    files = open_mtp(tmp_path)
    assert files.prefix == "mtp." and files.head is None and files.vocab.is_full
    (tmp_path / "model-00001.safetensors").write_bytes(rest)
    pair = load_pair(PairConfig(None, str(tmp_path), "mtp"), open_device("cpu"), "float32")
    assert pair.draft.kind.value == "mtp" and pair.draft_folder == pair.target_folder
    assert pair.name.endswith("mtp")


def shard(folder, places, rest):
    """Splits the weights: tensors whose names begin so into these files, and all others into `rest`."""
    whole = folder / "model.safetensors"
    tensors, files = load_file(whole), {}
    for name, tensor in tensors.items():
        place = next((file for start, file in places.items() if name.startswith(start)), rest)
        files.setdefault(place, {})[name] = tensor
    for name, held in files.items():
        save_file(held, folder / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in files.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    whole.unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mimo"}, "model_type=mimo is not supported; those of qwen3_next"),
        ({"hidden_act": "gelu"}, "hidden_act=gelu is not supported"),
        ({"rope_parameters": LONGROPE}, "longrope is none of"),
    ],
)
def test_a_module_that_cannot_run_is_refused_before_the_target_is_loaded(
    change, words, tmp_path, monkeypatch
):
    ROWS[-2].write(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.setattr("bench.runs.pair.load_target", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr("bench.runs.pair.resolve_target", lambda *_: tmp_path)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_pair(PairConfig(None, str(tmp_path), "mtp"), open_device("cpu"), "float32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: {n: v for n, v in t.items() if not n.startswith("mtp.")}, "holds no MTP module"),
        (lambda t: {n: v for n, v in t.items() if n != "mtp.norm.weight"}, r"norm\.weight is missing"),
        (lambda t: {**t, "mtp.twist.weight": torch.ones(2)}, r"twist\.weight is of no use"),
        (lambda t: {**t, "mtp.fc.weight": t["mtp.fc.weight"][:4]}, r"fc\.weight is \(4, "),
        (
            lambda t: {**t, "mtp.fc.weight": t["mtp.fc.weight"].to(torch.float8_e4m3fn)},
            "is F8_E4M3, and a quantised",
        ),
    ],
)
def test_tensors_that_are_no_module_are_refused_in_one_line(edit, words, tmp_path):
    ROWS[-2].write(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})
    target = load_target(tmp_path, CPU, torch.float32)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_mtp(tmp_path, Placement.beside(target))
    assert "\n" not in str(caught.value)


@torch.inference_mode()
def test_of_several_modules_the_first_runs(tmp_path):
    ROWS[-2].write(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    more = {n.replace(".0.", ".1."): t + 1 for n, t in tensors.items() if n.startswith("mtp.layers.0.")}
    save_file({**tensors, **more}, path, metadata={"format": "pt"})
    draft = load_mtp(tmp_path, Placement.beside(load_target(tmp_path, CPU, torch.float32)))
    assert len(draft.body.layers) == 1
    assert draft.notes == (
        "the target has 2 MTP modules; the first runs at every depth, as in vLLM's standard speculator",
    )
