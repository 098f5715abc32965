"""MTP modules written out plainly, in float64 and without caches. Nothing here calls the program.

Formulas are those of the DeepSeek-V3 report (arXiv 2412.19437) and of vLLM's models, position by position.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.zoo.reference import yarn

ZERO_CENTRED = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")


@dataclass
class ReferenceModule:
    """A module that is computed anew for every token.

    Args:
        config: of the target, as `transformers` reads it.
        tensors: of the module, by their names in the file.
        prefix: of those names.
        embedding: of the target `(V, H)`.
        head: of the target `(V, H)`, where the module has none.
    """

    config: Any
    tensors: dict[str, Tensor]
    prefix: str
    embedding: Tensor
    head: Tensor

    def __post_init__(self) -> None:
        self.is_qwen = self.prefix == "mtp."
        self.kind = self.config.model_type
        names = {"e": "pre_fc_norm_embedding", "h": "pre_fc_norm_hidden", "fc": "fc", "norm": "norm"}
        if not self.is_qwen:
            names = {"e": "enorm", "h": "hnorm", "fc": "eh_proj", "norm": "shared_head.norm"}
        self.names, self.layer = names, "layers.0." if self.is_qwen else ""

    def at(self, name: str) -> Tensor:
        return self.tensors[f"{self.prefix}{name}"].double()

    def has(self, name: str) -> bool:
        return f"{self.prefix}{name}" in self.tensors

    def linear(self, x: Tensor, name: str) -> Tensor:
        found = x @ self.at(f"{name}.weight").T
        return found + self.at(f"{name}.bias") if self.has(f"{name}.bias") else found

    def norm(self, x: Tensor, name: str, offset: bool | None = None) -> Tensor:
        weight = self.at(f"{name}.weight")
        weight = weight + 1 if self.kind in ZERO_CENTRED else weight
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.config.rms_norm_eps) * weight

    def outputs(self, next_ids: Tensor, hidden: Tensor) -> Tensor:
        """The layer's output at every position `(n, H)`, before the last norm."""
        embeds = self.embedding.double()[next_ids]
        if not self.is_qwen:
            embeds[0] = 0
        both = torch.cat([self.norm(embeds, self.names["e"]), self.norm(hidden, self.names["h"])], dim=-1)
        x = self.linear(both, self.names["fc"])
        normed = self.norm(x, f"{self.layer}input_layernorm")
        is_latent = self.has(f"{self.layer}self_attn.kv_a_proj_with_mqa.weight")
        x = x + (self.latent_attention if is_latent else self.attention)(normed)
        return x + self.mlp(self.norm(x, f"{self.layer}post_attention_layernorm"))

    def recycled(self, output: Tensor) -> Tensor:
        """What the next step reads."""
        return output if self.kind.startswith("glm4_moe") else self.norm(output, self.names["norm"])

    def logits(self, output: Tensor) -> Tensor:
        """Of the layer's output `(H,)`."""
        own = self.has("shared_head.head.weight")
        head = self.at("shared_head.head.weight") if own else self.head.double()
        return head @ self.norm(output[None], self.names["norm"])[0]

    def chain(self, ids: Tensor, features: Tensor, place: int, drafted: list[int]) -> Tensor:
        """Logits after `drafted` tokens from a place of a text, as `ReferenceDraft.chain`."""
        hidden = features[: place + 1].double()
        read = ids[1 : place + 2].tolist()
        output = self.outputs(torch.tensor(read), hidden)
        for token in drafted:
            hidden = torch.cat([hidden, self.recycled(output)[-1:]])
            read.append(token)
            output = self.outputs(torch.tensor(read), hidden)
        return self.logits(output[-1])

    def attention(self, x: Tensor) -> Tensor:
        config, name = self.config, f"{self.layer}self_attn"
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        turn = int(dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
        q, k, v = (self.linear(x, f"{name}.{p}_proj") for p in "qkv")
        gate = None
        if q.shape[1] == 2 * heads * dim:
            q, gate = (q.view(-1, heads, 2, dim)[:, :, i].flatten(1) for i in (0, 1))
        out = torch.zeros(len(x), heads * dim, dtype=torch.float64)
        for head in range(heads):
            shared, own = head // (heads // kv_heads), slice(head * dim, (head + 1) * dim)
            theirs = slice(shared * dim, (shared + 1) * dim)
            queries, keys = q[:, own], k[:, theirs]
            if self.has(f"{name}.q_norm.weight"):
                queries, keys = self.norm(queries, f"{name}.q_norm"), self.norm(keys, f"{name}.k_norm")
            queries, keys = self.halves(queries, turn), self.halves(keys, turn)
            out[:, own] = attend(queries, keys, v[:, theirs], 1 / math.sqrt(dim))
        return self.linear(out if gate is None else out * torch.sigmoid(gate), f"{name}.o_proj")

    def latent_attention(self, x: Tensor) -> Tensor:
        config, name = self.config, f"{self.layer}self_attn"
        heads, still, turn = config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
        if config.q_lora_rank:
            compressed = self.norm(self.linear(x, f"{name}.q_a_proj"), f"{name}.q_a_layernorm")
            q = self.linear(compressed, f"{name}.q_b_proj")
        else:
            q = self.linear(x, f"{name}.q_proj")
        compressed = self.linear(x, f"{name}.kv_a_proj_with_mqa")
        latent, shared = compressed[:, : config.kv_lora_rank], compressed[:, config.kv_lora_rank :]
        wide = self.linear(self.norm(latent, f"{name}.kv_a_layernorm"), f"{name}.kv_b_proj")
        scale, rope = 1 / math.sqrt(still + turn), config.rope_parameters
        if rope["rope_type"] == "yarn" and rope.get("mscale_all_dim"):
            scale *= (0.1 * rope["mscale_all_dim"] * math.log(rope["factor"]) + 1) ** 2
        turned = self.neighbours if config.rope_interleave else (lambda t: self.halves(t, turn))
        outs = []
        for head in range(heads):
            mine = q[:, head * (still + turn) : (head + 1) * (still + turn)]
            width = still + config.v_head_dim
            theirs = wide[:, head * width : (head + 1) * width]
            queries = torch.cat([mine[:, :still], turned(mine[:, still:])], dim=1)
            keys = torch.cat([theirs[:, :still], turned(shared)], dim=1)
            outs.append(attend(queries, keys, theirs[:, still:], scale))
        return self.linear(torch.cat(outs, dim=1), f"{name}.o_proj")

    def angles(self, n: int, turn: int) -> tuple[Tensor, float]:
        rope = self.config.rope_parameters
        plain = [rope["rope_theta"] ** (-2 * i / turn) for i in range(turn // 2)]
        factor = 1.0
        if rope["rope_type"] == "yarn":
            plain, factor = yarn(plain, rope, turn, rope["rope_theta"])
        return torch.arange(n).double()[:, None] * torch.tensor(plain).double(), factor

    def halves(self, x: Tensor, turn: int) -> Tensor:
        """Pairs (i, i + turn / 2) of the first `turn` dimensions turn; the others do not."""
        angles, factor = self.angles(len(x), turn)
        a, b, rest = x[:, : turn // 2], x[:, turn // 2 : turn], x[:, turn:]
        first = a * torch.cos(angles) - b * torch.sin(angles)
        second = b * torch.cos(angles) + a * torch.sin(angles)
        return torch.cat([factor * first, factor * second, rest], dim=1)

    def neighbours(self, x: Tensor) -> Tensor:
        """Pairs (2i, 2i + 1) turn."""
        angles, factor = self.angles(len(x), x.shape[1])
        out = torch.empty_like(x)
        out[:, 0::2] = x[:, 0::2] * torch.cos(angles) - x[:, 1::2] * torch.sin(angles)
        out[:, 1::2] = x[:, 1::2] * torch.cos(angles) + x[:, 0::2] * torch.sin(angles)
        return factor * out

    def mlp(self, x: Tensor) -> Tensor:
        name = f"{self.layer}mlp"
        if self.has(f"{name}.gate_proj.weight"):
            return self.gated(x, name)
        return torch.stack([self.mixture(row, name) for row in x])

    def gated(self, x: Tensor, name: str) -> Tensor:
        gate, up = self.linear(x, f"{name}.gate_proj"), self.linear(x, f"{name}.up_proj")
        return self.linear(gate / (1 + torch.exp(-gate)) * up, f"{name}.down_proj")

    def mixture(self, x: Tensor, name: str) -> Tensor:
        config, scores = self.config, self.at(f"{name}.gate.weight") @ x
        if self.is_qwen:
            probs = torch.softmax(scores, 0)
            chosen = probs.argsort(descending=True)[: config.num_experts_per_tok]
            weights = probs[chosen] / probs[chosen].sum()
            shared = torch.sigmoid(self.linear(x, f"{name}.shared_expert_gate")) * self.gated(
                x, f"{name}.shared_expert"
            )
        else:
            probs = torch.sigmoid(scores)
            ranked = probs + self.at(f"{name}.gate.e_score_correction_bias")
            groups = ranked.view(config.n_group, -1)
            best = groups.topk(2).values.sum(1).argsort(descending=True)[: config.topk_group]
            allowed = torch.full_like(groups, -math.inf)
            allowed[best] = groups[best]
            chosen = allowed.flatten().argsort(descending=True)[: config.num_experts_per_tok]
            weights = probs[chosen] / (probs[chosen].sum() + 1e-20) * config.routed_scaling_factor
            shared = self.gated(x, f"{name}.shared_experts")
        return shared + sum(
            w * self.gated(x, f"{name}.experts.{e}") for w, e in zip(weights, chosen.tolist(), strict=True)
        )


def attend(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Causal attention of one head, row by row."""
    rows = [
        torch.softmax(keys[: i + 1] @ queries[i] * scale, 0) @ values[: i + 1] for i in range(len(queries))
    ]
    return torch.stack(rows)
