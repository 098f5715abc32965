"""EAGLE drafts written out plainly, in float64 and without caches: what the zoo is held against.

Nothing here calls the program. A draft is its `config.json` and its tensors; formulas are those of the papers
and of vLLM's models, position by position.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class ReferenceDraft:
    """A draft that is computed anew for every token.

    Args:
        values: of the `config.json`.
        tensors: of the checkpoint, by name.
        kind: `eagle3` or `eagle`.
        target_embedding: of the target `(V, H)`, for drafts that leave theirs out.
        target_head: of the target `(V, H)`, likewise.
    """

    values: dict[str, Any]
    tensors: dict[str, Tensor]
    kind: str
    target_embedding: Tensor
    target_head: Tensor

    def __post_init__(self) -> None:
        layer = self.values.get("transformer_layer_config", self.values)
        self.layer, self.is_speculators = layer, layer is not self.values
        self.weights = {n.replace("midlayer.", "layers.0."): t for n, t in self.tensors.items()}
        old = {"aux_norm_low": "fc_norm.0", "aux_norm_mid": "fc_norm.1", "aux_norm_high": "fc_norm.2"}
        for before, now in old.items():
            if f"{before}.weight" in self.weights:
                self.weights[f"{now}.weight"] = self.weights.pop(f"{before}.weight")
        self.eps = layer.get("rms_norm_eps", 1e-6)
        self.heads = layer["num_attention_heads"]
        self.kv_heads = layer.get("num_key_value_heads") or self.heads
        self.head_dim = layer.get("head_dim") or layer["hidden_size"] // self.heads
        self.num_layers = 1 + max(int(n.split(".")[1]) for n in self.weights if n.startswith("layers."))

    def said(self, key: str, default: Any = None) -> Any:
        """A key of `eagle_config`, of the file, or of the layer's block."""
        for block in (self.values.get("eagle_config") or {}, self.values, self.layer):
            if block.get(key) is not None:
                return block[key]
        return default

    def fuse(self, features: Tensor) -> Tensor:
        """Features `(n, width)` to the hidden states that the first layer reads `(n, H)`."""
        if self.kind == "eagle" or self.said("use_aux_hidden_state", True) is False:
            return features
        if self.said("norm_before_fc"):
            features = self.norm(features, "input_norm")
        if self.said("fc_norm") or self.said("use_aux_norm"):
            number = sum(name.startswith("fc_norm.") for name in self.weights)
            width = features.shape[-1] // number
            parts = [features[:, i * width : (i + 1) * width] for i in range(number)]
            features = torch.cat([self.norm(part, f"fc_norm.{i}") for i, part in enumerate(parts)], dim=-1)
        return self.linear(features, "fc")

    def outputs(self, next_ids: Tensor, hidden: Tensor) -> Tensor:
        """What the next step reads, at every position `(n, H)`.

        Args:
            next_ids: the token after each position `(n,)`.
            hidden: fused features, or outputs of earlier steps `(n, H)`.
        """
        embedding = self.weights.get("embed_tokens.weight", self.target_embedding).double()
        embeds = embedding[next_ids]
        for index in range(self.num_layers):
            name = f"layers.{index}"
            if index == 0 and self.kind == "eagle":
                x = residual = self.linear(torch.cat([embeds, hidden], dim=-1), "fc")
            elif index == 0:
                normed = self.norm(hidden, f"{name}.hidden_norm")
                x = torch.cat([self.norm(embeds, f"{name}.input_layernorm"), normed], dim=-1)
                residual = normed if self.said("norm_before_residual", self.is_speculators) else hidden
            else:
                given = f"{name}.input_layernorm.weight" in self.weights
                residual, x = (
                    hidden,
                    self.norm(hidden, f"{name}.{'input_layernorm' if given else 'hidden_norm'}"),
                )
            hidden = residual + self.attention(x, f"{name}.self_attn")
            x = self.norm(hidden, f"{name}.post_attention_layernorm")
            gate, up = self.linear(x, f"{name}.mlp.gate_proj"), self.linear(x, f"{name}.mlp.up_proj")
            hidden = hidden + self.linear(gate / (1 + torch.exp(-gate)) * up, f"{name}.mlp.down_proj")
        return self.norm(hidden, "norm") if self.said("norm_output") else hidden

    def logits(self, output: Tensor) -> Tensor:
        """Of an output `(H,)`, over the draft's own tokens."""
        head = self.weights.get("lm_head.weight", self.target_head).double()
        if self.kind == "eagle3" and not self.said("norm_output"):
            output = self.norm(output[None], "norm")[0]
        return head @ output * self.said("logit_scale", 1.0)

    def chain(self, ids: Tensor, features: Tensor, place: int, depth: int) -> Tensor:
        """Logits after `depth` drafted tokens, all of them as in the text, from a place of it.

        Args:
            ids: the text `(n + 1,)`.
            features: of all but its last token `(n, width)`.
            place: the last position whose features are known.
            depth: 0 for the first drafted token.
        """
        hidden = self.fuse(features[: place + 1].double())
        output = self.outputs(ids[1 : place + 2], hidden)
        for step in range(depth):
            hidden = torch.cat([hidden, output[-1:]])
            output = self.outputs(ids[1 : place + 3 + step], hidden)
        return self.logits(output[-1])

    def attention(self, x: Tensor, name: str) -> Tensor:
        """Causal attention of `(n, width)` inputs."""
        n, dim = len(x), self.head_dim
        q, k, v = (self.linear(x, f"{name}.{p}_proj") for p in "qkv")
        out = torch.zeros(n, self.heads * dim, dtype=torch.float64)
        for head in range(self.heads):
            shared = head // (self.heads // self.kv_heads)
            queries, keys = q[:, head * dim : (head + 1) * dim], k[:, shared * dim : (shared + 1) * dim]
            if f"{name}.q_norm.weight" in self.weights:
                queries, keys = self.norm(queries, f"{name}.q_norm"), self.norm(keys, f"{name}.k_norm")
            queries, keys = self.rotate(queries), self.rotate(keys)
            values = v[:, shared * dim : (shared + 1) * dim]
            for i in range(n):
                scores = keys[: i + 1] @ queries[i] / math.sqrt(dim)
                out[i, head * dim : (head + 1) * dim] = torch.softmax(scores, 0) @ values[: i + 1]
        return self.linear(out, f"{name}.o_proj")

    def rotate(self, x: Tensor) -> Tensor:
        """Turns pairs (i, i + half) of `(n, head_dim)` by the angle of their position."""
        half = self.head_dim // 2
        frequencies, factor = rope_frequencies(self.layer, self.head_dim)
        angles = torch.arange(len(x), dtype=torch.float64)[:, None] * torch.tensor(frequencies).double()
        a, b = x[:, :half], x[:, half:]
        first = a * torch.cos(angles) - b * torch.sin(angles)
        second = b * torch.cos(angles) + a * torch.sin(angles)
        return factor * torch.cat([first, second], dim=-1)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Root-mean-square norm."""
        return (
            x
            / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps)
            * self.weights[f"{name}.weight"].double()
        )

    def linear(self, x: Tensor, name: str) -> Tensor:
        """x W^T, with a bias where there is one."""
        y = x @ self.weights[f"{name}.weight"].double().T
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else y + bias.double()


def rope_frequencies(layer: dict[str, Any], dim: int) -> tuple[list[float], float]:
    """Angles per position, and the factor on queries and keys."""
    scaling = {**(layer.get("rope_scaling") or {}), **(layer.get("rope_parameters") or {})}
    theta = scaling.get("rope_theta") or layer.get("rope_theta") or 10000.0
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "dynamic" and "alpha" in scaling:
        theta *= scaling["alpha"] ** (dim / (dim - 2))
    plain = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    if kind == "linear":
        return [f / scaling["factor"] for f in plain], 1.0
    if kind == "llama3":
        return [_llama3(f, scaling) for f in plain], 1.0
    if kind == "yarn":
        return yarn(plain, scaling, dim, theta)
    return plain, 1.0


def _llama3(frequency: float, scaling: dict[str, Any]) -> float:
    wavelength, original = 2 * math.pi / frequency, scaling["original_max_position_embeddings"]
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    if wavelength < original / high:
        return frequency
    if wavelength > original / low:
        return frequency / factor
    smooth = (original / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


def yarn(plain: list[float], scaling: dict[str, Any], dim: int, theta: float) -> tuple[list[float], float]:
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]

    def edge(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(edge(scaling.get("beta_fast", 32))), 0)
    high = min(math.ceil(edge(scaling.get("beta_slow", 1))), dim - 1)
    found = []
    for i, frequency in enumerate(plain):
        stretched = min(max((i - low) / max(high - low, 0.001), 0.0), 1.0)
        found.append(frequency * (1 - stretched) + frequency / factor * stretched)
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        above, below = (0.1 * scaling[key] * math.log(factor) + 1 for key in ("mscale", "mscale_all_dim"))
        return found, above / below
    return found, 0.1 * math.log(factor) + 1


def assert_chains(draft, ids, features, truth, atol):
    """A draft's logits at each place of a text and depth equal those of a reference, and are returned.

    Args:
        draft: one that was not used yet.
        ids: of the text.
        features: of the target, at all positions but the last.
        truth: the reference's logits by place, ascending, and depth.
        atol: largest difference beside a thousandth where no logit is above 1; rounding grows with them.
    """
    head, places = draft.full_head(), sorted({place for place, _ in truth})
    num_depths = 1 + max(depth for _, depth in truth)
    # Drafted step by step, from a prompt and after a verification, with the cache rolled back.
    found = {}
    hidden = draft.prefill(ids[: places[0] + 1], ids[places[0] + 1][None], features[:, : places[0] + 1])
    for place, after in zip(places, (*places[1:], None), strict=True):
        length = draft.length
        for depth in range(num_depths):
            found[place, depth] = head.logits(draft.normed(hidden))[0, 0]
            hidden = draft.step(ids[place + 2 + depth][None], hidden) if depth + 1 < num_depths else hidden
        draft.rewind(length)
        if after is not None:
            hidden = draft.extend(ids[place + 2 : after + 2], features[:, place + 1 : after + 1])
    _assert_equal(found, truth, atol)
    # The same chains unrolled over the text at once.
    chains = list(draft.unroll(ids, features).chains(0, len(ids) - 1, num_depths))
    _assert_equal({(p, d): head.logits(draft.normed(chains[d][:, p]))[0] for p, d in truth}, truth, atol)
    return found


def _assert_equal(found, truth, atol):
    for at, logits in truth.items():
        most = atol * max(1.0, float(logits.abs().max()))
        torch.testing.assert_close(
            found[at].double(), logits, rtol=1e-3, atol=most, msg=lambda m, at=at: f"{at}: {m}"
        )
