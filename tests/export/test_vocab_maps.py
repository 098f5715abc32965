"""Every exported map, loaded the way its consumer loads it, and read back by our own reader."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch_file

from bench.assets import sha256_of
from bench.errors import VocabError
from bench.export.readers import read_map
from bench.export.vocab_maps import Provenance, write_maps
from bench.vocab.draft_vocab import DraftVocab, choose_vocab, rank_by_count


class Code:
    """Unpickles to a call, as an attack would."""

    def __reduce__(self):
        return (print, ("ran",))


COUNTS = np.array([4, 0, 9, 1, 9, 0, 2, 7, 0, 3])
FILES = [
    "draft_vocab.safetensors",
    "token_ids/ids.txt",
    "token_ids/ids.json",
    "token_ids/ids.i32",
    "sglang/token_map.pt",
    "fr_spec/freq_4.pt",
    "specforge/vocab_mapping.pt",
    "speculators/d2t.npy",
]


def provenance(vocab: DraftVocab) -> Provenance:
    return Provenance(
        version="0",
        command="python -m bench",
        pair="pair",
        domain="d",
        target="t",
        target_revision=None,
        tokenizer_hash="h",
        source_id="sha256:0",
        ranking={"d": 1.0},
        responses="dataset",
        vocab_size=len(vocab),
        target_vocab_size=vocab.target_vocab_size,
        coverage_train=0.9,
        coverage_heldout=None,
        content_hash=vocab.content_hash,
        num_ranking_tokens=35,
    )


def export(folder, counts, must_keep, size) -> DraftVocab:
    vocab = choose_vocab(rank_by_count(counts), must_keep, size, len(counts))
    folder.mkdir()
    write_maps(vocab, counts, must_keep, provenance(vocab), folder)
    return vocab


@pytest.fixture
def exported(tmp_path):
    return tmp_path / "out", export(tmp_path / "out", COUNTS, [5], 4)


def test_offsets_and_mask_as_vllm_and_specforge_apply_them(exported):
    folder, vocab = exported
    assert vocab.target_ids.tolist() == [2, 4, 5, 7]
    maps = torch.load(folder / "specforge" / "vocab_mapping.pt", weights_only=True)
    tensors = load_file(folder / "draft_vocab.safetensors")
    arrays = {
        name: torch.from_numpy(np.load(folder / "speculators" / f"{name}.npy")) for name in ("d2t", "t2d")
    }
    for found in (maps, tensors, arrays):
        assert found["d2t"].dtype == torch.int64 and found["t2d"].dtype == torch.bool
        assert (torch.arange(4) + found["d2t"]).tolist() == [2, 4, 5, 7]
        assert found["t2d"].nonzero().flatten().tolist() == [2, 4, 5, 7]
        # The k logits are scattered into a row of -inf, as vLLM does at every step.
        logits = torch.arange(4.0)
        row = torch.full((10,), -torch.inf).scatter(0, torch.arange(4) + found["d2t"], logits)
        assert row[[2, 4, 5, 7]].tolist() == logits.tolist() and int(torch.isinf(row).sum()) == 6


def test_the_token_map_slices_a_head_as_sglang_does(exported):
    folder, _ = exported
    loaded = torch.load(folder / "sglang" / "token_map.pt", weights_only=True)
    assert all(type(token) is int for token in loaded)
    ids = torch.tensor(loaded, dtype=torch.int64)
    head = torch.arange(20.0).reshape(10, 2)
    assert head[ids].tolist() == [[4.0, 5.0], [8.0, 9.0], [10.0, 11.0], [14.0, 15.0]]
    assert ids.tolist() == sorted(loaded)


def test_fr_spec_has_falling_frequency_with_the_must_keep_ids_forced_in(exported):
    folder, _ = exported
    assert torch.load(folder / "fr_spec" / "freq_4.pt", weights_only=True) == [2, 4, 7, 5]


def test_a_must_keep_id_that_was_seen_has_its_place_by_frequency(tmp_path):
    export(tmp_path / "out", COUNTS, [7], 3)
    assert torch.load(tmp_path / "out" / "fr_spec" / "freq_3.pt", weights_only=True) == [2, 4, 7]


def test_speculators_builds_the_same_vocabulary_from_the_frequencies(exported):
    folder, _ = exported
    frequencies = torch.load(folder / "speculators" / "token_freq.pt", weights_only=True)
    assert frequencies == {0: 4, 2: 9, 3: 1, 4: 9, 6: 2, 7: 7, 9: 3}
    top = sorted(frequencies, key=lambda token: (-frequencies[token], token))[:3]
    assert sorted(top) == [2, 4, 7]


def test_the_manifest_names_every_file_with_its_hash(exported):
    folder, vocab = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    named = {entry["path"]: entry for entry in manifest["files"]}
    assert set(named) == {str(p.relative_to(folder)) for p in folder.rglob("*.*")} - {"manifest.json"}
    for path, entry in named.items():
        assert entry["sha256"] == sha256_of(folder / path)
        assert entry["consumer"] and entry["usage"]
    assert manifest["provenance"]["content_hash"] == vocab.content_hash
    assert manifest["must_keep"] == [5]
    with safe_open(folder / "draft_vocab.safetensors", framework="numpy") as file:
        assert file.metadata()["content_hash"] == vocab.content_hash
        assert file.metadata()["coverage_heldout"] == "null"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 5), min_size=4, max_size=30).map(np.array), st.data())
def test_every_format_reads_back_to_the_same_vocabulary(tmp_path_factory, counts, data):
    must_keep = data.draw(st.sets(st.integers(0, len(counts) - 1), max_size=3))
    size = data.draw(st.integers(max(1, len(must_keep)), len(counts)))
    folder = tmp_path_factory.mktemp("maps") / "out"
    vocab = export(folder, counts, must_keep, size)
    for name in FILES:
        read = read_map(folder / name.replace("_4", f"_{size}"), len(counts))
        assert read.content_hash == vocab.content_hash
        assert must_keep <= set(read.target_ids.tolist())
    ordered = torch.load(folder / "fr_spec" / f"freq_{size}.pt", weights_only=True)
    assert ordered == sorted(ordered, key=lambda token: (-counts[token], token))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pt", [1, 1, 3], "strictly increasing"),
        ("a.pt", [1, 12], "outside the target's vocabulary"),
        (
            "a.pt",
            {"d2t": torch.tensor([0, -1]), "t2d": torch.zeros(10, dtype=torch.bool)},
            "strictly increasing",
        ),
        ("a.pt", {"d2t": torch.tensor([0, 0]), "t2d": torch.zeros(10, dtype=torch.bool)}, "the mask t2d"),
        ("a.pt", {"d2t": torch.tensor([0, 0])}, "not a readable vocabulary map"),
        ("a.pt", {"d2t": torch.tensor([1.0]), "t2d": torch.arange(10) == 1}, "flat list of integers"),
        ("a.pt", [1.5, 2.5], "flat list of integers"),
        ("a.pt", [None], "flat list of integers"),
        ("a.pt", Code(), "damaged, or holds more than tensors"),
    ],
)
def test_a_broken_map_is_named(tmp_path, name, content, reason):
    torch.save(content, tmp_path / name)
    with pytest.raises(VocabError, match=rf"{re.escape(str(tmp_path / name))}: .*{reason}"):
        read_map(tmp_path / name, 10)


def test_offsets_in_a_rounding_format_are_named(tmp_path):
    path, maps = tmp_path / "draft_vocab.safetensors", {"t2d": torch.arange(10) == 1}
    save_torch_file({**maps, "d2t": torch.tensor([1.0]).bfloat16()}, path)
    with pytest.raises(VocabError, match=rf"{re.escape(str(path))}: .*flat list of integers"):
        read_map(path, 10)


def test_a_map_that_is_not_what_it_says_is_refused(tmp_path):
    vocab, other = DraftVocab(np.array([1, 2]), 10), DraftVocab(np.array([1, 3]), 10)
    path = tmp_path / "draft_vocab.safetensors"
    save_file({"d2t": other.d2t, "t2d": other.t2d}, path, metadata={"content_hash": vocab.content_hash})
    with pytest.raises(VocabError, match="content_hash"):
        read_map(path, 10)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "d2t.npy"])
@pytest.mark.parametrize("content", [b"", b"hello world", bytes(64), None])
def test_a_damaged_or_absent_file_is_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(
        VocabError, match=rf"{re.escape(str(tmp_path / name))}: not a readable vocabulary map"
    ) as caught:
        read_map(tmp_path / name, 10)
    assert "\n" not in str(caught.value)
