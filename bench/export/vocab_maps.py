"""One vocabulary in the format of each engine and trainer.

All formats contain the same: the k target tokens that the draft can propose. In all of them
`nonzero(t2d) == arange(k) + d2t`.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bench.assets import sha256_of
from bench.export.files import save_pickled, save_tensors
from bench.vocab.draft_vocab import DraftVocab, IntArray, rank_by_count

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ExportedFile:
    """One file and its use.

    Attributes:
        path: path in the export folder.
        consumer: the program that loads it.
        content: its content.
        usage: how to load it.
    """

    path: str
    consumer: str
    content: str
    usage: str


# Origin of an exported vocabulary, written into every export.


@dataclass(frozen=True)
class Provenance:
    """The origin of a vocabulary.

    Attributes:
        version: version of this program.
        command: the command that wrote it.
        pair: name of the pair.
        domain: domain that it was chosen for.
        target: the target model.
        target_revision: hub revision of the target.
        tokenizer_hash: sha256 of vocabulary, merges and chat template.
        source_id: identity of the text.
        ranking: weights of the domains that ranked the tokens.
        responses: who wrote the responses: `dataset` or `target`.
        vocab_size: k.
        target_vocab_size: V.
        coverage_train: C(k) of the ranking responses.
        coverage_heldout: C(k) of the held-out responses; None if there are none.
        content_hash: hash of the ids; it differs between maps of the same size.
        num_ranking_tokens: number of tokens counted for the ranking.
    """

    version: str
    command: str
    pair: str
    domain: str
    target: str
    target_revision: str | None
    tokenizer_hash: str
    source_id: str
    ranking: dict[str, float]
    responses: str
    vocab_size: int
    target_vocab_size: int
    coverage_train: float
    coverage_heldout: float | None
    content_hash: str
    num_ranking_tokens: int

    def as_metadata(self) -> dict[str, str]:
        """The header for safetensors, in which all values are text."""
        return {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in asdict(self).items()
        }


def write_maps(
    vocab: DraftVocab, counts: IntArray, must_keep: Iterable[int], provenance: Provenance, folder: Path
) -> list[ExportedFile]:
    """Writes every format into `folder`, and a manifest of them.

    Args:
        vocab: the vocabulary.
        counts: counts of every target token in the ranking responses `(V,)`.
        must_keep: ids in every vocabulary; the manifest lists those that the draft has.
        provenance: origin of the vocabulary.
        folder: an existing folder, which the caller moves into place in one step.
    """
    for name in ("token_ids", "sglang", "fr_spec", "specforge", "speculators"):
        (folder / name).mkdir()
    d2t, t2d = torch.from_numpy(vocab.d2t), torch.from_numpy(vocab.t2d)
    metadata = provenance.as_metadata()
    save_tensors({"d2t": d2t, "t2d": t2d}, folder / "draft_vocab.safetensors", metadata)
    ids = vocab.target_ids.tolist()
    (folder / "token_ids" / "ids.txt").write_text("".join(f"{token}\n" for token in ids), "utf-8")
    (folder / "token_ids" / "ids.json").write_text(json.dumps(ids) + "\n", "utf-8")
    vocab.target_ids.astype("<i4").tofile(folder / "token_ids" / "ids.i32")
    save_pickled(ids, folder / "sglang" / "token_map.pt")
    by_frequency = rank_by_count(counts)
    kept = by_frequency[np.isin(by_frequency, vocab.target_ids)]
    save_pickled(kept.tolist(), folder / "fr_spec" / f"freq_{len(vocab)}.pt")
    save_pickled({"d2t": d2t, "t2d": t2d}, folder / "specforge" / "vocab_mapping.pt")
    np.save(folder / "speculators" / "d2t.npy", vocab.d2t)
    np.save(folder / "speculators" / "t2d.npy", vocab.t2d)
    seen = np.flatnonzero(counts)
    frequencies = dict(zip(seen.tolist(), counts[seen].tolist(), strict=True))
    save_pickled(frequencies, folder / "speculators" / "token_freq.pt")
    files = exported_files(len(vocab))
    forced = np.intersect1d(np.fromiter(must_keep, dtype=np.int64), vocab.target_ids)
    _write_manifest(folder, files, provenance, forced)
    return files


def exported_files(size: int | str) -> list[ExportedFile]:
    """Every vocabulary map, for k = `size`."""
    return [
        ExportedFile(
            "draft_vocab.safetensors",
            "any",
            "d2t (k) int64 offsets, t2d (V) bool",
            "target id = draft id + d2t[draft id]; the origin of the vocabulary is in the header",
        ),
        ExportedFile("token_ids/ids.txt", "your own tools", "k ids, ascending", "one id a line"),
        ExportedFile("token_ids/ids.json", "your own tools", "list of k ids, ascending", "JSON"),
        ExportedFile(
            "token_ids/ids.i32",
            "your own tools",
            "(k) int32, little-endian, without a header",
            'numpy.fromfile(path, dtype="<i4")',
        ),
        ExportedFile(
            "sglang/token_map.pt",
            "SGLang, EAGLE-2 style drafts",
            "list of k ids, ascending",
            "--speculative-token-map; row i of the sliced head is id list[i]. For EAGLE-3, SGLang ignores it "
            "and takes the vocabulary from a trimmed checkpoint",
        ),
        ExportedFile(
            f"fr_spec/freq_{size}.pt",
            "FR-Spec",
            "list of k ids by decreasing frequency; must-keep ids without a count are last",
            "torch.load(path, weights_only=True)",
        ),
        ExportedFile(
            "specforge/vocab_mapping.pt",
            "SpecForge",
            "dict of d2t (k) int64 and t2d (V) bool tensors",
            "model.vocab_mapping_path of a training configuration, to train a draft with this vocabulary",
        ),
        ExportedFile("speculators/d2t.npy", "speculators", "(k) int64 offsets", "--d2t-path at training"),
        ExportedFile("speculators/t2d.npy", "speculators", "(V) bool", "--t2d-path at training"),
        ExportedFile(
            "speculators/token_freq.pt",
            "speculators",
            "dict of token id to count in the ranking responses",
            "--token-freq-path with --draft-vocab-size, for mappings of another size; those do not contain "
            "the must-keep ids",
        ),
    ]


def _write_manifest(
    folder: Path, files: list[ExportedFile], provenance: Provenance, must_keep: IntArray
) -> None:
    entries = [{**asdict(file), "sha256": sha256_of(folder / file.path)} for file in files]
    manifest = {"provenance": asdict(provenance), "must_keep": must_keep.tolist(), "files": entries}
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")
