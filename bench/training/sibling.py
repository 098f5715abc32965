"""A decoder LM that drafts for its target: the target's embedding and LM head, and a few layers.

It reads tokens alone, and a chain that was right so far has read nothing but the text. So one pass over an
answer trains every depth at once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from bench.cost.config_json import read_config
from bench.models.fetching import CONFIG
from bench.models.weights import WEIGHTS
from bench.training.collect import CONTEXT_TOKENS
from bench.training.data import Batch
from bench.training.trainer import Objective

NUM_LAYERS = 2

# Its MLPs are this wide: the target's channels of the largest weights.
MLP_SIZE = 1024

# Batches whose answers the last matrix is fitted to.
NUM_FITTED = 16

# Peak learning rate of Muon: half of what a layer over the target's hidden states is trained with.
MATRIX_LR = 4e-3

# Root mean square of what is fitted, before the last norm: far above that of the embedding, which is added.
_SCALE = 8.0

# Share of the mean square of a channel that is added to every square, as channels depend on each other.
_RIDGE = 1e-3


class Sibling(nn.Module):
    """A decoder LM without embedding and LM head.

    Args:
        folder: of the target.
        num_layers: its own, which begin as the target's first ones.
        mlp_size: width of its MLPs.
    """

    def __init__(self, folder: Path, num_layers: int = NUM_LAYERS, mlp_size: int = MLP_SIZE):
        super().__init__()
        self.config = AutoConfig.from_pretrained(folder)
        self.config.num_hidden_layers, self.config.intermediate_size = num_layers, mlp_size
        self.model: Any = AutoModel.from_config(self.config, dtype=torch.float32)
        self.model.embed_tokens = None

    def begin(self, weights: Mapping[str, Tensor], batches: Iterable[Batch]) -> "Sibling":
        """Takes over layers and norm of the target, whose weights `weights` are by name.

        The first layers of a target predict nothing, as its LM head reads what the last one gives. So the
        output matrix of the last MLP is the one that is nearest to giving the target's last hidden states, by
        least squares over the answers in `batches`.
        """
        self.model.norm.weight.data.copy_(weights["model.norm.weight"])
        for index, layer in enumerate(self.model.layers):
            prefix = f"model.layers.{index}."
            own = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
            layer.load_state_dict(_narrowed(own, self.config.intermediate_size))
        self._fit(weights["model.embed_tokens.weight"], batches)
        return self

    def read(self, batch: Batch, embedding: Tensor) -> Tensor:
        """Normed hidden states after every token `(batch, C + A, H)`."""
        places = torch.arange(batch.tokens.shape[1])
        output = self.model(
            inputs_embeds=F.embedding(batch.tokens, embedding),
            attention_mask=(places >= batch.context_start[:, None]).long(),
            use_cache=False,
        )
        return output.last_hidden_state

    @torch.no_grad()
    def _fit(self, embedding: Tensor, batches: Iterable[Batch]) -> None:
        down, norm, seen = self.model.layers[-1].mlp.down_proj, self.model.norm, {}
        hooks = [
            module.register_forward_pre_hook(lambda _m, inputs, key=key: seen.update({key: inputs[0]}))
            for key, module in (("channels", down), ("sum", norm))
        ]
        size, width = down.weight.shape
        gram, product = (torch.zeros(width, n, dtype=torch.float64) for n in (width, size))
        for batch in batches:
            self.read(batch, embedding)
            places = torch.arange(batch.tokens.shape[1] - CONTEXT_TOKENS)
            known = places < batch.num_answer[:, None] - 1
            channels, total, wanted = (
                states[:, CONTEXT_TOKENS:][known].double()
                for states in (seen["channels"], seen["sum"], batch.hidden / norm.weight)
            )
            before = total - channels @ down.weight.T.double()
            gram += channels.T @ channels
            product += channels.T @ (_SCALE * wanted - before)
        for hook in hooks:
            hook.remove()
        gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
        down.weight.copy_(torch.linalg.solve(gram, product).T)

    def head_input(self, hidden: Tensor) -> Tensor:
        """Hidden states as they are: they are normed."""
        return hidden

    def save(self, target: Path, out: Path, metadata: dict[str, str]) -> None:
        """Writes the layers and the norm, without embedding and head, and the configuration of the whole."""
        out.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in self.state_dict().items()}
        save_file(tensors, out / WEIGHTS, metadata=metadata)
        changed = {
            "num_hidden_layers": self.config.num_hidden_layers,
            "intermediate_size": self.config.intermediate_size,
        }
        values = {key: v for key, v in read_config(target / CONFIG)[1].items() if not key.startswith("_")}
        (out / CONFIG).write_text(json.dumps(values | changed, indent=2) + "\n", "utf-8")


def _narrowed(layer: dict[str, Tensor], mlp_size: int) -> dict[str, Tensor]:
    """A layer with those channels of its MLP whose three weight vectors have the largest product of norms."""
    gate, up, down = (layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    kept = (gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)).topk(mlp_size).indices.sort().values
    narrow = {"gate": gate[kept], "up": up[kept], "down": down[:, kept]}
    return layer | {f"mlp.{name}_proj.weight": weight for name, weight in narrow.items()}


class SiblingObjective(Objective):
    """Loss of a sibling on a batch, at one depth.

    Args:
        sibling: the draft being trained.
        embedding: the target's input embedding `(V, H)`, frozen.
        head: the target's LM head `(V, H)`, frozen.
    """

    def __init__(self, sibling: Sibling, embedding: Tensor, head: Tensor):
        self.body, self.vocab_size = cast(Any, sibling), head.shape[0]
        self._embedding, self._head = embedding, head

    def _outputs(self, batch: Batch) -> Iterator[Tensor]:
        yield cast(Any, self.body).read(batch, self._embedding)[:, CONTEXT_TOKENS:-1]
