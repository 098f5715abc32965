"""Trains a draft on collected shards: checkpointed, resumable, seeded."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from bench.errors import AssetError
from bench.identity import hash_of
from bench.models.draft_config import EagleConfig
from bench.models.eagle_body import Body, EagleBody, EagleLayer, Unroll
from bench.models.layers import RotaryTable
from bench.models.mtp_body import MtpBody
from bench.models.mtp_config import mtp_config
from bench.models.rope import Rope
from bench.models.target import Target
from bench.training.collect import CONTEXT_TOKENS
from bench.training.data import Batch, Sequence, batches


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the training.

    Attributes:
        steps: optimiser steps.
        batch_size: answers per step.
        depths: number of drafted tokens in the training-time test.
        depth_decay: the weight of depth j is depth_decay ** j.
        matrix_lr: peak learning rate of Muon, for matrices.
        vector_lr: peak learning rate of AdamW, for norms.
        warmup_steps: steps of linear warm-up, before a cosine decay to zero.
        frequent_tokens: softmax candidates of every step.
        sampled_tokens: further candidates, new at every step, so that rare tokens are trained too.
        seed: seed of order and sampling.
        autocast: matrix products are in bfloat16, which CPUs that have it do three times as fast.
    """

    steps: int = 640
    batch_size: int = 16
    depths: int = 3
    depth_decay: float = 0.9
    matrix_lr: float = 8e-3
    vector_lr: float = 2e-3
    warmup_steps: int = 20
    frequent_tokens: int = 4096
    sampled_tokens: int = 1024
    seed: int = 0
    autocast: bool = False


def new_mtp(target: Target, weights: dict[str, Tensor]) -> MtpBody:
    """An MTP module with one layer like the target's last, whose weights it begins with."""
    prefix = f"model.layers.{target.config.num_hidden_layers - 1}."
    layer = {name.replace(prefix, "layers.0."): t for name, t in weights.items() if name.startswith(prefix)}
    config = mtp_config(target.config, {name: tuple(t.shape) for name, t in layer.items()}, "the target")
    body, size = MtpBody(config, layer), config.hidden_size
    body.load_state_dict(layer, strict=False)
    with torch.no_grad():
        body.fc.weight[:, :size].normal_(std=0.02)
        body.fc.weight[:, size:].copy_(torch.eye(size))
        body.norm.weight.copy_(weights["model.norm.weight"])
    return body


def new_eagle3(target: Target, weights: dict[str, Tensor]) -> EagleBody:
    """An EAGLE-3 draft with one layer like the target's last, whose weights it begins with."""
    body = EagleBody(draft_config(target))
    init_from_last_layer(body, weights, target.config.num_hidden_layers)
    return body


def draft_config(target: Target) -> EagleConfig:
    """Configuration of the draft: one layer like those of the target."""
    config = target.config
    return EagleConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        draft_vocab_size=config.vocab_size,
        rms_norm_eps=config.rms_norm_eps,
        rope=Rope(config.rope_parameters["rope_theta"]),
        max_position_embeddings=config.max_position_embeddings,
    )


def init_from_last_layer(body: EagleBody, weights: dict[str, Tensor], num_layers: int) -> None:
    """Copies the target's last layer, applied to the deepest feature: it already predicts well."""
    prefix, size = f"model.layers.{num_layers - 1}.", body.config.hidden_size
    layer = cast(EagleLayer, body.layers[0])
    with torch.no_grad():
        body.fc.weight.zero_()
        body.fc.weight[:, 2 * size :].copy_(torch.eye(size))
        for name in ("q_proj", "k_proj", "v_proj"):
            weight = getattr(layer.self_attn, name).weight
            weight[:, :size].normal_(std=0.02)
            weight[:, size:].copy_(weights[f"{prefix}self_attn.{name}.weight"])
        layer.self_attn.o_proj.weight.copy_(weights[f"{prefix}self_attn.o_proj.weight"])
        for name in ("gate_proj", "up_proj", "down_proj"):
            getattr(layer.mlp, name).weight.copy_(weights[f"{prefix}mlp.{name}.weight"])
        layer.hidden_norm.weight.copy_(weights[f"{prefix}input_layernorm.weight"])
        layer.post_attention_layernorm.weight.copy_(weights[f"{prefix}post_attention_layernorm.weight"])
        body.norm.weight.copy_(weights["model.norm.weight"])


# Training-time test (EAGLE-3, arXiv 2503.01840): the loss is of the draft unrolled over its own outputs.


@dataclass(frozen=True)
class DepthResult:
    """Mean loss and share of argmax agreement with the target at one depth."""

    loss: Tensor
    accuracy: Tensor


class Trainer:
    """Optimises what `objective` is of, on `sequences`; saves its state in `folder`."""

    def __init__(
        self, objective: "Objective", sequences: list[Sequence], settings: TrainSettings, folder: Path
    ):
        self._body, self._sequences, self._settings = objective.body, sequences, settings
        self._objective = objective
        self._checkpoint = folder / "checkpoint.pt"
        self._vocab_size = objective.vocab_size
        trained = [parameter for parameter in objective.body.parameters() if parameter.requires_grad]
        matrices = [p for p in trained if p.ndim == 2]
        vectors = [p for p in trained if p.ndim == 1]
        self._optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, settings.matrix_lr),
            torch.optim.AdamW(vectors, settings.vector_lr, weight_decay=0.0),
        ]
        self._peaks = (settings.matrix_lr, settings.vector_lr)
        self._frequent = self._most_frequent()

    def run(self) -> list[dict[str, float]]:
        """Trains to the end, from the last checkpoint if there is one; returns the log."""
        settings = self._settings
        first, log = self._resume()
        hidden_size = self._body.config.hidden_size
        data = batches(self._sequences, settings.batch_size, settings.seed, first, hidden_size)
        bar = tqdm(range(first, settings.steps), desc="train", initial=first, total=settings.steps)
        for step in bar:
            results = self._step(step, next(data))
            entry = {f"accuracy_{d}": float(r.accuracy) for d, r in enumerate(results)}
            log.append({"step": step, "loss": float(results[0].loss.detach()), **entry})
            bar.set_postfix({k: f"{v:.3f}" for k, v in log[-1].items() if k != "step"})
            if (step + 1) % 20 == 0 or step + 1 == settings.steps:
                self._save(step + 1, log)
        return log

    def _step(self, step: int, batch) -> list[DepthResult]:
        settings = self._settings
        for optimizer, peak in zip(self._optimizers, self._peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * self._schedule(step)
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.autocast):
            results = self._objective(batch, self._candidates(step))
        losses = torch.stack([settings.depth_decay**depth * r.loss for depth, r in enumerate(results)])
        losses.sum().backward()
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.autocast):
            for optimizer in self._optimizers:
                optimizer.step()
        return results

    def _schedule(self, step: int) -> float:
        settings = self._settings
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * done))

    def _most_frequent(self) -> Tensor:
        counts = torch.zeros(self._vocab_size, dtype=torch.long)
        for sequence in self._sequences:
            answer = sequence.tokens[sequence.num_context :]
            counts += torch.bincount(answer, minlength=self._vocab_size)
        return counts.argsort(descending=True, stable=True)[: self._settings.frequent_tokens]

    def _candidates(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._settings.seed + step)
        sampled = torch.randint(self._vocab_size, (self._settings.sampled_tokens,), generator=generator)
        return torch.cat([self._frequent, sampled]).unique()

    def _save(self, step: int, log: list[dict[str, float]]) -> None:
        state = {
            "made_by": self._identity(),
            "step": step,
            "log": log,
            "body": self._body.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        temporary = self._checkpoint.with_suffix(".partial")
        torch.save(state, temporary)
        temporary.replace(self._checkpoint)

    def _identity(self) -> str:
        """Of settings and data."""
        tokens = hashlib.sha256()
        for sequence in self._sequences:
            tokens.update(sequence.tokens.to(torch.int32).numpy().tobytes())
        return hash_of([asdict(self._settings), tokens.hexdigest()])

    def _resume(self) -> tuple[int, list[dict[str, float]]]:
        if not self._checkpoint.exists():
            return 0, []
        state = torch.load(self._checkpoint, weights_only=True)
        if state.get("made_by") != self._identity():
            raise AssetError(
                f"{self._checkpoint} was trained with other settings or data; choose another --work folder, "
                "or remove it"
            )
        self._body.load_state_dict(state["body"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return state["step"], state["log"]


# Muon: momentum with an orthogonalised matrix update (Jordan 2024; scaled as in arXiv 2502.16982).

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised updates, for 2-D weights."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """One update from the current gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                buffer = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                buffer.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalise(weight.grad.lerp(buffer, group["momentum"]))
                # Same root mean square as an AdamW update, so that learning rates are comparable.
                scale = 0.2 * max(weight.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Approximates the nearest semi-orthogonal matrix by Newton-Schulz iterations of degree five."""
    a, b, c = _COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Objective:
    """Loss of a draft body on a batch.

    Args:
        body: the draft being trained.
        embedding: the target's input embedding `(V, H)`, frozen.
        head: the target's LM head `(V, H)`, frozen.
        depths: number of drafted tokens of the unroll.
    """

    def __init__(self, body: Body, embedding: Tensor, head: Tensor, depths: int):
        self.body, self.vocab_size = body, head.shape[0]
        self._embedding, self._head, self._depths = embedding, head, depths
        config = body.config
        self._tables = RotaryTable(config.rope, config.head_dim, 1024, embedding).upto(1024)

    def __call__(self, batch: Batch, candidates: Tensor) -> list[DepthResult]:
        """Loss by depth. The softmax is only over the tokens `candidates` `(num_candidates,)`."""
        head = self._head[candidates]
        truth = _Truth(batch, head)
        return [self._judge(truth, hidden, head, depth) for depth, hidden in enumerate(self._outputs(batch))]

    def _outputs(self, batch: Batch) -> Iterator[Tensor]:
        """By depth, hidden states after every answer token but the last `(batch, A - 1 - depth, H)`."""
        num_places = batch.tokens.shape[1] - 2
        embeds = F.embedding(batch.tokens[:, 1 : num_places + 1], self._embedding)
        is_real = torch.arange(num_places) >= batch.context_start[:, None]
        chains = Unroll(self.body, self._tables, embeds, batch.features[:, :num_places], is_real)
        return chains.chains(CONTEXT_TOKENS - 1, num_places, self._depths)

    def _judge(self, truth: "_Truth", hidden: Tensor, head: Tensor, depth: int) -> DepthResult:
        in_answer = truth.in_answer[:, depth:]
        rows = truth.row_of[:, depth:][in_answer]
        logits = self.body.head_input(hidden)[in_answer] @ head.T
        log_probs = torch.log_softmax(logits, dim=-1)
        soft = -(truth.probs[rows] * log_probs).sum(-1).mean()
        hard = F.nll_loss(log_probs, truth.best[rows])
        agree = (logits.argmax(-1) == truth.best[rows]).float().mean()
        return DepthResult((soft + hard) / 2, agree)


class _Truth:
    """The target's predictions at every answer position, computed once for all depths.

    Attributes:
        in_answer: whether the next token is part of the answer `(batch, A - 1)`.
        row_of: row of the position in `probs` and `best` `(batch, A - 1)`.
        probs: the target's distribution over the candidates `(positions, num_candidates)`.
        best: its argmax `(positions,)`.
    """

    def __init__(self, batch: Batch, head: Tensor):
        hidden = batch.hidden[:, CONTEXT_TOKENS:-1]
        self.in_answer = torch.arange(hidden.shape[1]) + 1 < batch.num_answer[:, None]
        self.row_of = (self.in_answer.flatten().cumsum(0) - 1).view_as(self.in_answer)
        with torch.no_grad():
            logits = hidden[self.in_answer] @ head.T
            self.probs, self.best = torch.softmax(logits, dim=-1), logits.argmax(-1)
