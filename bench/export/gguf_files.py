"""A trimmed draft as a GGUF file, for llama.cpp: written from its weights, or cut out of another GGUF file.

llama.cpp reads a head of k rows with the tensor `d2t`: k target ids as int64, where every other format holds
offsets. It puts the k logits into V of minus infinity (`src/models/eagle3.cpp` in llama-cpp-python 0.3.36).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter, Keys, ReaderTensor
from numpy.typing import NDArray

from bench.errors import CheckpointError, OutputError, VocabError
from bench.models.draft_config import EagleConfig
from bench.models.eagle_files import EagleFiles
from bench.models.weights import StoredTensor
from bench.vocab.draft_vocab import DraftVocab, IntArray

EAGLE3, D2T, OUTPUT, EMBEDDING = "eagle3", "d2t", "output.weight", "token_embd.weight"

# llama.cpp's names of a draft's tensors.
_NAMES = {
    "fc.weight": "fc.weight",
    "input_norm.weight": "enc.output_norm.weight",
    "norm.weight": "output_norm.weight",
    "layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
    "layers.0.hidden_norm.weight": "blk.0.attn_norm_2.weight",
    "layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight",
    "layers.0.self_attn.k_proj.weight": "blk.0.attn_k.weight",
    "layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
    "layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
    "layers.0.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
    "layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
    "layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
    "layers.0.mlp.up_proj.weight": "blk.0.ffn_up.weight",
}

# Matrices stay in the type that they are stored in.
TYPES = {"F32": Type.F32, "F16": Type.F16, "BF16": Type.BF16}

# A tensor to write: shape, type and what makes its data.
Write = tuple[tuple[int, ...], Type, Callable[[], NDArray[Any]]]

Writes = dict[str, Write]


def unknown_tensors(files: EagleFiles) -> list[str]:
    """What of an EAGLE-3 draft's weights llama.cpp has no place for, or does not read in its type."""
    parts = {**files.layers, "lm_head.weight": files.head, "embed_tokens.weight": files.embedding}
    known = {*_NAMES, "lm_head.weight", "embed_tokens.weight"}
    return [
        f"it does not read {name}, stored as {tensor.dtype}"
        for name, tensor in parts.items()
        if tensor is not None and (name not in known or tensor.dtype not in TYPES)
    ]


def write_eagle3_gguf(files: EagleFiles, layers: Sequence[int], path: Path) -> None:
    """Writes an EAGLE-3 draft as llama.cpp loads it. It has no tokenizer: text is the target's concern.

    Args:
        files: the draft, without `unknown_tensors`; llama.cpp must have no objection to it.
        layers: the three target layers after which the draft reads hidden states.
        path: of the new file.

    Raises:
        OutputError: the file cannot be written.
    """
    config, writes = files.config, Writes()

    def put(name: str, tensor: StoredTensor, heads: int = 0) -> None:
        # Norms and other vectors are always float32 in GGUF.
        kind = TYPES[tensor.dtype] if len(tensor.shape) > 1 else Type.F32
        writes[name] = (tensor.shape, kind, lambda: as_bytes(_rotated(tensor.tensor(), heads), kind))

    for name, tensor in files.layers.items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        put(_NAMES[name], tensor, heads.get(name.split(".")[-2], 0))
    for name, part in ((OUTPUT, files.head), (EMBEDDING, files.embedding)):
        if part is not None:
            put(name, part)
    if (divisors := _rope_divisors(config)) is not None:
        writes["rope_freqs.weight"] = (divisors.shape, Type.F32, lambda: divisors)
    if not files.vocab.is_full:
        ids = files.vocab.target_ids
        writes[D2T] = (ids.shape, Type.I64, lambda: ids)
    writer = GGUFWriter(path, EAGLE3)
    _describe(writer, config, layers)
    write_tensors(writer, writes, path)


def _rotated(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Query and key rows in llama.cpp's order, which rotates neighbours instead of halves."""
    if not heads:
        return tensor
    rows = tensor.reshape(heads, 2, -1, tensor.shape[-1])
    return rows.swapaxes(1, 2).reshape(tensor.shape)


def as_bytes(tensor: torch.Tensor, kind: Type) -> NDArray[Any]:
    """A tensor as its bytes in a file."""
    if kind is Type.F32:
        return tensor.float().numpy()
    return tensor.contiguous().view(torch.uint8).numpy()


def _rope_divisors(config: EagleConfig) -> NDArray[np.float32] | None:
    """What the plain frequencies are divided by `(head_dim / 2,)`; None where rope is not scaled."""
    if config.rope.kind == "default":
        return None
    scaled, _ = config.rope.frequencies(config.head_dim, config.max_position_embeddings)
    plain = config.rope.theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    return (plain / scaled).astype(np.float32)


def _describe(writer: GGUFWriter, config: EagleConfig, layers: Sequence[int]) -> None:
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    # The gguf package has no methods for these before it knows the architecture.
    writer.add_array(f"{EAGLE3}.target_layers", list(layers))
    writer.add_uint32(f"{EAGLE3}.target_hidden_size", config.target_hidden_size or config.hidden_size)
    writer.add_bool(f"{EAGLE3}.norm_before_residual", config.norm_before_residual)
    writer.add_bool(f"{EAGLE3}.norm_before_fc", config.norm_before_fc)


def write_tensors(writer: GGUFWriter, tensors: Writes, path: Path) -> None:
    """Writes one tensor after the other, so that only one is in memory.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        for name, (shape, kind, _) in tensors.items():
            block, size = gguf.GGML_QUANT_SIZES[kind]
            num_bytes = int(np.prod(shape)) // block * size
            writer.add_tensor_info(name, shape, np.dtype(np.float32), num_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, _, data in tensors.values():
            writer.write_tensor_data(data())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}; choose another folder") from error
    finally:
        writer.close()


# Cuts the head of a GGUF file, in whatever blocks it is stored: a row is a whole number of blocks.


def cut_gguf(source: Path, vocab: DraftVocab, out: Path) -> None:
    """Writes the draft in `source` with its LM head cut to `vocab`. All bits of the rows stay as they are.

    Args:
        source: an EAGLE-3 or DFlash draft, or a sidecar with only the MTP layers of a model. Of MTP layers,
            llama.cpp reads `d2t` since its pull request 29143, which was open in November 2026.
        vocab: the tokens to keep.
        out: the file to write.

    Raises:
        CheckpointError: it is no such file, or its head lacks tokens of `vocab`.
        OutputError: the file cannot be written.
    """
    reader = _open(source)
    arch = _architecture(reader)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    head = _head_of(stored, arch, reader, source)
    own = _vocab_of(stored, vocab, source)
    if int(head.shape[1]) != len(own):
        raise CheckpointError(
            f"{source}: its LM head {head.name} has {int(head.shape[1])} rows for a vocabulary of {len(own)} "
            "tokens; draft and target must have the same tokenizer"
        )
    try:
        rows = own.rows_of(vocab)
    except VocabError as error:
        raise CheckpointError(f"{source}: {error}") from error
    writer = GGUFWriter(out, arch, endianess=reader.endianess)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != Keys.General.ARCHITECTURE:
            inner = field.types[1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writes = {name: _copy(tensor) for name, tensor in stored.items() if name != D2T}
    # A head that is tied to the embedding becomes one of its own.
    name = OUTPUT if head.name == EMBEDDING else head.name
    writes[name] = ((len(vocab), int(head.shape[0])), head.tensor_type, lambda: head.data[rows])
    if not vocab.is_full:
        writes[D2T] = (vocab.target_ids.shape, Type.I64, lambda: vocab.target_ids)
    write_tensors(writer, writes, out)


def read_gguf_vocab(path: Path, target_vocab_size: int) -> DraftVocab:
    """The vocabulary of a trimmed draft in a GGUF file.

    Raises:
        CheckpointError: the file cannot be read, or its `d2t` is not k ascending ids.
    """
    stored = {tensor.name: tensor for tensor in _open(path).tensors}
    return _vocab_of(stored, _full(target_vocab_size), path)


def gguf_architecture(path: Path) -> str:
    """llama.cpp's name of the model that a GGUF file holds.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return _architecture(_open(path))


def _architecture(reader: GGUFReader) -> str:
    return str(reader.get_field(Keys.General.ARCHITECTURE).contents())  # type: ignore[union-attr]


def _open(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: not a GGUF file that can be read ({error})") from error


def _copy(tensor: ReaderTensor) -> Write:
    # GGUF states the length of a row first.
    shape = tuple(int(size) for size in reversed(tensor.shape))
    return shape, tensor.tensor_type, lambda: tensor.data


def _head_of(stored: dict[str, ReaderTensor], arch: str, reader: GGUFReader, path: Path) -> ReaderTensor:
    """The LM head of a draft; never that of a target."""
    own = [name for name in stored if name.endswith("nextn.shared_head_head.weight")]
    if len(own) > 1:
        raise CheckpointError(
            f"{path}: {len(own)} MTP layers have LM heads, and llama.cpp has one d2t for all"
        )
    if own:
        return stored[own[0]]
    if arch not in (EAGLE3, "dflash") and not _is_sidecar(stored, arch, reader):
        raise CheckpointError(
            f"{path} holds a whole {arch} model, whose LM head is not a draft's; give a GGUF file of an "
            "EAGLE-3 draft, or of the MTP layers alone"
        )
    for name in (OUTPUT, EMBEDDING):
        if name in stored:
            return stored[name]
    raise CheckpointError(f"{path} has no LM head of its own; convert the draft with the target's head")


def _is_sidecar(stored: dict[str, ReaderTensor], arch: str, reader: GGUFReader) -> bool:
    """Whether a file holds the MTP layers of a model, which come last, and no others."""

    def said(key: str) -> int:
        field = reader.get_field(key.format(arch=arch))
        return 0 if field is None else int(field.contents())

    first_mtp = said(Keys.LLM.BLOCK_COUNT) - said(Keys.LLM.NEXTN_PREDICT_LAYERS)
    blocks = [int(name.split(".")[1]) for name in stored if name.startswith("blk.")]
    return said(Keys.LLM.NEXTN_PREDICT_LAYERS) > 0 and min(blocks, default=-1) >= first_mtp


def _vocab_of(stored: dict[str, ReaderTensor], like: DraftVocab, path: Path) -> DraftVocab:
    if D2T not in stored:
        return _full(like.target_vocab_size)
    ids: IntArray = np.asarray(stored[D2T].data).reshape(-1).astype(np.int64)
    try:
        return DraftVocab(ids, like.target_vocab_size)
    except VocabError as error:
        raise CheckpointError(f"{path}: d2t is not a list of ascending target ids: {error}") from error


def _full(vocab_size: int) -> DraftVocab:
    return DraftVocab(np.arange(vocab_size), vocab_size)
