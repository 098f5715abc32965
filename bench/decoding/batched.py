"""Batched answers of the target: for ranking a vocabulary and for training a draft, never for timing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.models.target import Target, TargetOutput

# Rows that have ended leave the batch once they are this share of it.
_COMPACT_AT = 0.2

# Called after every forward pass with the answers' rows that it served `(num_rows,)` and its output
# `(num_rows, num_new_tokens, ...)`. The first pass serves prompts, not answers: one row each.
Observer = Callable[[Tensor, TargetOutput], None]


@dataclass(frozen=True)
class Sampling:
    """How the target answers.

    Attributes:
        max_new_tokens: longest answer.
        temperatures: one answer per prompt and entry; 0 is greedy.
        seed: of the sampled answers.
    """

    max_new_tokens: int
    temperatures: tuple[float, ...] = (0.0,)
    seed: int = 0


@torch.inference_mode()
def generate_batch(
    target: Target,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    observe: Observer | None = None,
) -> list[list[int]]:
    """The target's answers, end-of-turn token included where it came.

    Args:
        target: model and tokenizer.
        prompts: token ids of each prompt; shorter ones are padded on the left.
        sampling: length, temperatures and seed.
        observe: sees every forward pass.

    Returns:
        Token ids of the answers, prompt by prompt and within it temperature by temperature.
    """
    copies = len(sampling.temperatures)
    batch = _Batch(target, len(prompts) * copies, sampling)
    ids, mask = _pad_left(prompts, target.device)
    output = target.forward_batch(
        ids, batch.cache, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)
    )
    if observe:
        observe(torch.arange(len(prompts)), output)
    batch.cache.repeat_rows(copies)
    mask = mask.repeat_interleave(copies, dim=0)
    hidden = output.hidden[:, -1].repeat_interleave(copies, dim=0)
    for _ in range(sampling.max_new_tokens - 1):
        mask = batch.append(target.lm_head(hidden), mask)
        if not len(batch.rows):
            return batch.answers
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = mask.sum(-1, keepdim=True) - 1
        output = target.forward_batch(
            batch.last_tokens, batch.cache, attention_mask=mask, position_ids=positions
        )
        if observe:
            observe(batch.rows, output)
        hidden = output.hidden[:, -1]
    batch.append(target.lm_head(hidden), mask)
    return batch.answers


class _Batch:
    """The answers in progress: which rows still run, and what each has said."""

    def __init__(self, target: Target, num_answers: int, sampling: Sampling):
        device = target.device
        self.cache = target.new_cache()
        self.stop = target.eos_token_ids()
        self.answers: list[list[int]] = [[] for _ in range(num_answers)]
        self.rows = torch.arange(num_answers, device=device)
        self.alive = torch.ones(num_answers, dtype=torch.bool, device=device)
        self.last_tokens = torch.empty(0, 1, dtype=torch.long, device=device)
        copies = num_answers // len(sampling.temperatures)
        self.temperatures = torch.tensor(sampling.temperatures, device=device).repeat(copies)
        self.generator = torch.Generator(device=device).manual_seed(sampling.seed)

    def append(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Chooses the next token of every row; returns the mask of the rows that stay."""
        tokens = logits.argmax(-1)
        warm = (self.temperatures > 0).nonzero().flatten()
        if len(warm):
            probs = torch.softmax(logits[warm].float() / self.temperatures[warm, None], dim=-1)
            tokens[warm] = torch.multinomial(probs, 1, generator=self.generator).flatten()
        for index in self.alive.nonzero().flatten().tolist():
            token = int(tokens[index])
            self.answers[int(self.rows[index])].append(token)
            self.alive[index] = token not in self.stop
        self.last_tokens = tokens[:, None]
        if self.alive.float().mean() <= 1 - _COMPACT_AT:
            mask = self._drop_ended(mask)
        return mask

    def _drop_ended(self, mask: Tensor) -> Tensor:
        kept = self.alive.nonzero().flatten()
        if len(kept):
            self.cache.select_rows(kept)
        self.rows, self.alive = self.rows[kept], self.alive[kept]
        self.last_tokens, self.temperatures = self.last_tokens[kept], self.temperatures[kept]
        return mask[kept]


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
