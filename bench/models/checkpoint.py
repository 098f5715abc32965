"""EAGLE-3 checkpoints in the SafeAILab layout: shipped, local or on the hub.

Embedding and LM head may be left out of the file; they then come from the target. A checkpoint whose
head is already trimmed brings its own `d2t`.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.assets import CATALOG
from bench.cost import config_json
from bench.errors import AssetError, CheckpointError, VocabError
from bench.models.draft import DraftHead
from bench.models.eagle3 import Eagle3Body, Eagle3Config, Eagle3Draft
from bench.models.layers import pack_linears
from bench.models.target import Target, from_hub, resolve_model
from bench.vocab.draft_vocab import DraftVocab

SHIPPED = Path(__file__).resolve().parent.parent / "drafts"

_ARCHITECTURE = "LlamaForCausalLMEagle3"


@dataclass(frozen=True)
class DraftCheckpoint:
    """A draft ready to run with its own or a smaller vocabulary.

    Attributes:
        draft: body and embedding.
        head_weight: LM head rows over `vocab` `(k, H)`.
        vocab: the largest vocabulary that this checkpoint can propose from.
    """

    draft: Eagle3Draft
    head_weight: Tensor
    vocab: DraftVocab

    def head(self, vocab: DraftVocab) -> DraftHead:
        """The LM head sliced to `vocab`; nothing is retrained.

        Raises:
            CheckpointError: `vocab` holds tokens that this checkpoint cannot propose.
        """
        try:
            rows = self.vocab.rows_of(vocab)
        except VocabError as error:
            reason = "the draft's own vocabulary lacks tokens of the one asked for"
            raise CheckpointError(f"{reason}: {error}") from error
        if vocab.is_full:
            return DraftHead(self.head_weight, None)
        device = self.head_weight.device
        weight = self.head_weight[torch.from_numpy(rows).to(device)].contiguous()
        return DraftHead(weight, torch.from_numpy(vocab.target_ids).to(device))


def resolve_draft(name: str, revision: str | None = None, weights: bool = True) -> Path:
    """Folder of a shipped draft, one of the catalogue, a local one, or one from the hub.

    Args:
        name: shipped or catalogue name, folder or hub id.
        revision: of the hub.
        weights: fetch them from the hub; else its `config.json` only.

    Raises:
        AssetError: it can be had from none of them.
    """
    shipped = SHIPPED / name
    if shipped.is_dir():
        return shipped
    if weights or name in CATALOG or Path(name).is_dir():
        return resolve_model(name, revision)
    return from_hub(name, revision, ("config.json",))


def read_config(folder: Path) -> Eagle3Config:
    """Shape of the checkpoint in `folder`.

    Raises:
        CheckpointError: there is no EAGLE-3 configuration.
    """
    path = folder / "config.json"
    _, values = config_json.read_config(path)
    values.setdefault("draft_vocab_size", values.get("vocab_size"))
    if "hidden_size" in values and "num_attention_heads" in values:
        values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    rope = values.get("rope_parameters") or {}
    values.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    values.setdefault("max_position_embeddings", 2048)
    values.setdefault("rms_norm_eps", 1e-6)
    names = [f.name for f in fields(Eagle3Config) if f.name != "norm_before_residual"]
    missing = [name for name in names if values.get(name) is None]
    if missing:
        raise CheckpointError(f"{path}: an EAGLE-3 draft needs {', '.join(missing)}")
    chosen = {name: values[name] for name in names}
    return Eagle3Config(**chosen, norm_before_residual=bool(values.get("norm_before_residual", False)))


def load_draft(folder: Path, target: Target) -> DraftCheckpoint:
    """Loads a draft for `target`, in the target's device and dtype.

    Raises:
        CheckpointError: the files are not an EAGLE-3 draft of this target.
    """
    config, tensors = read_config(folder), _read_tensors(folder)
    if config.vocab_size != target.vocab_size or config.hidden_size != target.config.hidden_size:
        raise CheckpointError(
            f"{folder} drafts for a target with {config.vocab_size} tokens and hidden size "
            f"{config.hidden_size}; this target has {target.vocab_size} and {target.config.hidden_size}"
        )
    embedding = tensors.pop("embed_tokens.weight", target.embedding_weight)
    head, vocab = _head_and_vocab(tensors, target, folder)
    with torch.device("meta"):
        body = Eagle3Body(config)
    try:
        body.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split("\n")[1:3]).strip()
        raise CheckpointError(f"{folder} does not have the EAGLE-3 layout: {problem}") from error
    like = target.embedding_weight
    body = body.to(like).eval().requires_grad_(False)
    pack_linears(body)
    return DraftCheckpoint(Eagle3Draft(body, embedding.to(like)), head.to(like), vocab)


def save_body(body: Eagle3Body, folder: Path, metadata: dict[str, str]) -> None:
    """Writes a full-vocabulary draft without embedding and head, which are the target's."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in body.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata=metadata)
    values = {
        "architectures": [_ARCHITECTURE],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "tie_word_embeddings": False,
        **asdict(body.config),
    }
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    try:
        if safe.exists():
            return load_file(safe)
        if pickled.exists():
            return torch.load(pickled, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: the weights cannot be read ({error})") from error
    raise AssetError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def _head_and_vocab(tensors: dict[str, Tensor], target: Target, folder: Path) -> tuple[Tensor, DraftVocab]:
    head, d2t = tensors.pop("lm_head.weight", None), tensors.pop("d2t", None)
    tensors.pop("t2d", None)
    if head is None:
        head = target.head_weight
    if d2t is not None:
        vocab = DraftVocab.from_d2t(d2t.numpy(), target.vocab_size)
    else:
        vocab = DraftVocab(np.arange(target.vocab_size, dtype=np.int64), target.vocab_size)
    if len(head) != len(vocab):
        raise CheckpointError(
            f"{folder}: the LM head has {len(head)} rows, its vocabulary {len(vocab)} tokens"
        )
    return head, vocab
