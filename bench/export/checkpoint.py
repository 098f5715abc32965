"""Trimmed checkpoints: an EAGLE draft, or the LM head of a decoder LM, cut to a vocabulary.

Nothing is retrained. Rows of the LM head are selected, and maps say which target tokens they are. A head that
is already trimmed is trimmed further, and its map is composed with the new one. Everything else is copied
unchanged, a few rows at a time: tensors and keys of any name and type.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cost.config_json import read_config
from bench.errors import CheckpointError, VocabError
from bench.export.files import save_tensors, stated_hash
from bench.export.heads import Tensors, cut_head, cut_rows, head_tensors, num_head_rows
from bench.export.layouts import converted, layer_config, with_draft_vocab_size
from bench.models.decoder_lm import trimmed_head
from bench.models.draft_config import Layout, layout_of, tensor_name
from bench.models.eagle_files import CONFIG, read_vocab
from bench.models.mtp import open_mtp
from bench.models.mtp_config import file_name
from bench.models.weights import (
    EMBEDDING,
    HEAD,
    WEIGHTS,
    StoredTensor,
    as_integers,
    open_file,
    open_weights,
    stored,
    without_prefix,
)
from bench.vocab.draft_vocab import DraftVocab, IntArray

_TRIMMED_HEAD = "lm_head.safetensors"

# Names of the input embedding of a decoder LM, to which its head can be tied.
_EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight", EMBEDDING)


def trim_eagle3(
    folder: Path,
    vocab: DraftVocab,
    target_head: Tensor | Tensors | None,
    layout: Layout,
    out: Path,
    verifier: str,
    target_embedding: Tensor | None = None,
) -> None:
    """Writes the EAGLE-3 draft in `folder` with its LM head cut to `vocab`.

    The input embedding keeps its full size. If the source has none, none is written unless it is given; vLLM
    and SGLang then share that of the target. With k = V there are no maps, as engines expect.

    Args:
        folder: the draft, in either layout, with any vocabulary that contains `vocab`.
        vocab: the tokens to keep.
        target_head: LM head of the target `(V, H)`, for drafts that share it.
        layout: the layout to write.
        out: the folder to create.
        verifier: name of the target, for the speculators configuration.
        target_embedding: input embedding of the target `(V, H)`, for drafts that share it.

    Raises:
        AssetError: the draft has no weights.
        CheckpointError: the draft cannot be read, lacks tokens of `vocab`, or belongs to another target.
        OutputError: the checkpoint cannot be written.
    """
    tensors, (text, values) = read_tensors(folder), read_config(folder / CONFIG)
    layer = layer_config(values, folder / CONFIG)
    if target_embedding is not None:
        tensors.setdefault(EMBEDDING, stored(target_embedding))
    # Draft and target can be padded to different sizes; the maps must fit the draft's configuration.
    vocab = _in_size_of(layer, vocab, folder)
    _check_embedding(tensors.get(EMBEDDING), vocab.target_vocab_size, folder)
    head, own = _own_head(tensors, target_head, vocab.target_vocab_size, folder)
    _check_width(layer, head, folder)
    kept = {name: t for name, t in tensors.items() if name not in head and name not in ("d2t", "t2d")}
    kept |= cut_head(head, len(own), _rows(own, vocab, folder), folder) | _maps(vocab)
    if layout is layout_of(values):
        config = with_draft_vocab_size(text, len(vocab), str(folder / CONFIG))
    else:
        changed = converted(values, layer, len(vocab), verifier)
        config = json.dumps(changed, indent=2) + "\n"
    named = {tensor_name(name, layout): tensor for name, tensor in kept.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_tensors(named, out / WEIGHTS, _meta(vocab))
    (out / CONFIG).write_text(config, "utf-8", newline="")


def trim_mtp(folder: Path, vocab: DraftVocab, target_head: Tensors | None, out: Path) -> None:
    """Writes the MTP module in `folder`, with its LM head cut to `vocab`, as a folder of its own.

    Tensors keep their names and bits. The head is the module's own where it has one, else the target's; in
    the layout `mtp.*` it is called `mtp.lm_head.weight`.

    Args:
        folder: of the target, or of the module alone.
        vocab: the tokens to keep.
        target_head: LM head of the target, for a module without one of its own.
        out: the folder to create.

    Raises:
        AssetError: there are no weights.
        CheckpointError: there is no module, it lacks tokens of `vocab`, or its head cannot be cut.
        OutputError: the checkpoint cannot be written.
    """
    files = open_mtp(folder, may_be_quantised=True)
    head = head_tensors(files.tensors) | ({HEAD: files.head} if files.head else {})
    if not head and target_head is None:
        raise CheckpointError(f"{folder} has no LM head, and the head of the target was not given")
    head, own = head or dict(target_head or {}), files.vocab
    num_rows = num_head_rows(head, folder)
    if num_rows != len(own):
        raise CheckpointError(
            f"{folder}: the LM head has {num_rows} rows, but its vocabulary has {len(own)} tokens"
        )
    kept = {name: tensor for name, tensor in files.tensors.items() if name not in head}
    if files.embedding is not None:
        kept[EMBEDDING] = files.embedding
    kept |= cut_head(head, num_rows, _rows(own, vocab, folder), folder)
    named = {file_name(name, files.prefix): tensor for name, tensor in kept.items()} | _maps(vocab)
    values = read_config(folder / CONFIG)[1]
    # What engines and this program know a module alone by.
    names = [name.split("For")[0].removesuffix("MTP") + "MTP" for name in values.get("architectures") or [""]]
    changed = {**values, "architectures": names, "draft_vocab_size": len(vocab)}
    out.mkdir(parents=True, exist_ok=True)
    save_tensors(named, out / WEIGHTS, _meta(vocab))
    (out / CONFIG).write_text(json.dumps(changed, indent=2) + "\n", "utf-8")


def trim_decoder_lm(folder: Path, vocab: DraftVocab, target: Callable[[], Path], out: Path) -> None:
    """Writes the LM head of the decoder LM in `folder`, cut to `vocab`, alone and in a copy of the draft.

    A tied head becomes a copy of some rows of the embedding. What the target lends the draft is in the copy.

    Args:
        folder: of the draft.
        vocab: the tokens to keep.
        target: gives the folder of the target; called only where the draft takes its embedding from there.
        out: where `lm_head` and `draft` are made. Of the text part of a larger model there is only `lm_head`.

    Raises:
        AssetError: the model has no weights.
        CheckpointError: the model cannot be read or has another vocabulary.
        OutputError: they cannot be written.
    """
    tensors, values, trimmed = open_weights(folder), read_config(folder / CONFIG)[1], trimmed_head(folder)
    head_names, num_tokens = {*head_tensors(tensors)}, (values.get("text_config") or values).get("vocab_size")
    matrices = (t.shape for name, t in tensors.items() if name not in head_names and len(t.shape) == 2)
    lent = {}
    if all(shape[0] != num_tokens for shape in matrices):
        lent = {name: t for name, t in _of_text_model(target()).items() if name in _EMBEDDINGS}
    if trimmed is not None:
        head, rows = {HEAD: trimmed[1]}, _rows(trimmed[0], vocab, folder)
    elif lent and not head_names and values.get("tie_word_embeddings"):
        head, rows = {HEAD: next(iter(lent.values()))}, vocab.target_ids
    else:
        head, rows = read_head(target() if lent and not head_names else folder), vocab.target_ids
    cut = cut_rows(head, rows, folder) | _maps(vocab)
    (out / "lm_head").mkdir(parents=True, exist_ok=True)
    save_tensors(cut, out / "lm_head" / _TRIMMED_HEAD, _meta(vocab))
    if "text_config" not in values:
        (out / "draft").mkdir(exist_ok=True)
        kept = {n: t for n, t in (tensors | lent).items() if n not in {*head_names, "d2t", "t2d"}}
        save_tensors(kept | cut, out / "draft" / WEIGHTS, _meta(vocab))
        changed = json.dumps(values | {"tie_word_embeddings": False}, indent=2) + "\n"
        (out / "draft" / CONFIG).write_text(changed, "utf-8")


def trim_lm_head(folder: Path, vocab: DraftVocab, out: Path, target_head: Tensors | None = None) -> None:
    """Writes the LM head of the draft in `folder`, cut to `vocab`, with its maps.

    No engine loads such a head instead of the draft's head. SGLang trims the head itself, with the exported
    token map. Use this file in your own engine, or to check others. If the head is tied to the input
    embedding, it becomes a copy of some rows; the embedding keeps its full size.

    Args:
        folder: of a decoder LM, or of a draft that uses the target's head.
        vocab: the tokens to keep.
        out: folder to make.
        target_head: of the target, for a draft without a head of its own.

    Raises:
        AssetError: the model has no weights.
        CheckpointError: the model cannot be read or has another vocabulary.
        OutputError: the head cannot be written.
    """
    head = dict(target_head) if target_head else read_head(folder)
    tensors = cut_rows(head, vocab.target_ids, folder) | _maps(vocab)
    out.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, out / _TRIMMED_HEAD, _meta(vocab))


def read_trimmed(folder: Path, target_vocab_size: int) -> tuple[DraftVocab, Tensor]:
    """Vocabulary and LM head `(k, H)` of a trimmed checkpoint, checked.

    Raises:
        AssetError: there are no weights.
        CheckpointError: tensors are missing or do not fit each other.
    """
    path = folder / _TRIMMED_HEAD
    if not path.exists():
        path = folder / WEIGHTS
    tensors = open_file(path) if path.exists() else read_tensors(folder)
    head, vocab = _own_head(tensors, None, target_vocab_size, folder)
    stated = stated_hash(path) if path.exists() else None
    if stated is not None and stated != vocab.content_hash:
        raise CheckpointError(f"{path}: its ids do not match its content_hash; export it again")
    return vocab, head[HEAD].tensor()


# Readers of checkpoints. Tensors have SafeAILab's names.


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a draft.

    Raises:
        AssetError: there are no weights.
        CheckpointError: the weights cannot be read safely.
    """
    tensors = without_prefix(open_weights(folder))
    return {tensor_name(name, Layout.SAFEAILAB): tensor for name, tensor in tensors.items()}


def read_head(folder: Path) -> dict[str, StoredTensor]:
    """Tensors of the LM head of a decoder LM, by name; its input embedding if the two are tied.

    Raises:
        AssetError: there are no weights.
        CheckpointError: there is neither an LM head nor an embedding.
    """
    tensors = _of_text_model(folder)
    if head := head_tensors(tensors):
        return head
    for name in _EMBEDDINGS:
        if name in tensors:
            return {HEAD: tensors[name]}
    raise CheckpointError(f"{folder}: neither {HEAD} nor an input embedding is in its files")


def read_ends(folder: Path) -> tuple[StoredTensor, StoredTensor]:
    """Input embedding `(V, H)` and last norm `(H,)` of a decoder LM.

    Raises:
        AssetError: there are no weights.
        CheckpointError: one of them is not there.
    """
    norm = _of_text_model(folder).get("model.norm.weight")
    if norm is None:
        raise CheckpointError(f"{folder}: it holds no model.norm.weight")
    return read_embedding(folder), norm


def read_embedding(folder: Path) -> StoredTensor:
    """Input embedding `(V, H)` of a decoder LM.

    Raises:
        AssetError: there are no weights.
        CheckpointError: it is not there.
    """
    tensors = _of_text_model(folder)
    name = next((name for name in _EMBEDDINGS if name in tensors), None)
    if name is None:
        raise CheckpointError(f"{folder}: it holds no input embedding, such as {_EMBEDDINGS[0]}")
    return tensors[name]


def has_same_rows(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two matrices are equal in the narrower of their types, in the rows that both have.

    They are read a few rows at a time.
    """
    if first.shape[1:] != second.shape[1:]:
        return False
    for own, other in zip(first.parts(), second.parts(), strict=False):
        dtype = min(own.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
        rows = min(len(own), len(other))
        if not torch.equal(own[:rows].to(dtype), other[:rows].to(dtype)):
            return False
    return True


def _of_text_model(folder: Path) -> dict[str, StoredTensor]:
    """A model's tensors, without what models that wrap a text model put into the names of its tensors."""
    return {name.replace("language_model.", ""): tensor for name, tensor in open_weights(folder).items()}


def borrowed_head(draft: Path, target: Callable[[], Path]) -> dict[str, StoredTensor] | None:
    """The LM head of a draft that has none of its own, which is the target's; None for other drafts.

    Args:
        draft: folder of the draft.
        target: gives the folder of the target; called only where it is needed.
    """
    return None if head_tensors(read_tensors(draft)) else read_head(target())


def read_offsets(folder: Path) -> IntArray | None:
    """The `d2t` of a draft that is already trimmed; None for other drafts.

    Raises:
        AssetError: there are no weights.
        CheckpointError: the weights cannot be read, or their `d2t` is not valid.
    """
    d2t = open_weights(folder).get("d2t")
    try:
        return None if d2t is None else as_integers(d2t.tensor())
    except ValueError as error:
        raise CheckpointError(f"{folder}: d2t is not a vocabulary map: {error}") from error


def _own_head(
    tensors: Tensors, target_head: Tensor | Tensors | None, target_vocab_size: int, folder: Path
) -> tuple[dict[str, StoredTensor], DraftVocab]:
    head = head_tensors(tensors)
    if not head and target_head is None:
        raise CheckpointError(f"{folder} has no LM head, and the head of the target was not given")
    if not head and target_head is not None:
        head = {HEAD: stored(target_head)} if isinstance(target_head, Tensor) else dict(target_head)
    vocab, num_rows = read_vocab(tensors, target_vocab_size, folder), num_head_rows(head, folder)
    if num_rows != len(vocab):
        raise CheckpointError(
            f"{folder}: the LM head has {num_rows} rows, but its vocabulary has {len(vocab)} tokens"
            + (": it has no d2t, the map of a trimmed head" if "d2t" not in tensors else "")
        )
    return head, vocab


def _maps(vocab: DraftVocab) -> dict[str, StoredTensor]:
    if vocab.is_full:
        return {}
    return {"d2t": stored(torch.from_numpy(vocab.d2t)), "t2d": stored(torch.from_numpy(vocab.t2d))}


def _in_size_of(layer: dict[str, Any], vocab: DraftVocab, folder: Path) -> DraftVocab:
    """The same tokens in the vocabulary size that the draft's configuration has."""
    try:
        return DraftVocab(vocab.target_ids, layer.get("vocab_size", vocab.target_vocab_size))
    except VocabError as error:
        raise CheckpointError(f"{folder}: {error}; draft and target must have the same tokenizer") from error


def _check_embedding(embedding: StoredTensor | None, vocab_size: int, folder: Path) -> None:
    if embedding is not None and embedding.num_rows != vocab_size:
        raise CheckpointError(
            f"{folder}: the input embedding has {embedding.num_rows} rows, but vocab_size is {vocab_size}"
        )


def _check_width(layer: dict[str, Any], head: Tensors, folder: Path) -> None:
    # Packed rows are narrower than the unpacked rows.
    if HEAD not in head:
        return
    width = head[HEAD].shape[1:]
    size = layer.get("hidden_size", width[-1])
    if width != (size,) and len(head) == 1:
        raise CheckpointError(
            f"{folder}: rows of the LM head are {width[-1]} wide, the draft's hidden size is {size}; a "
            "draft with another hidden size than its target needs its own LM head"
        )


def _rows(own: DraftVocab, wanted: DraftVocab, folder: Path) -> IntArray:
    """Row indices of the tokens of `wanted` in a head with the vocabulary `own`."""
    try:
        return own.rows_of(wanted)
    except VocabError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _meta(vocab: DraftVocab) -> dict[str, str]:
    return {"format": "pt", "content_hash": vocab.content_hash}
