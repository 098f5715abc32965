"""Collected shards as training batches: the context is right-aligned, the answer left-aligned after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from bench.errors import AssetError
from bench.training.collect import CONTEXT_TOKENS, MAX_NEW_TOKENS


@dataclass(frozen=True)
class Sequence:
    """One answer with the end of its prompt.

    Attributes:
        source: source of the prompt.
        tokens: context and answer ids `(context + answer,)`.
        states: features and final hidden states side by side, or the latter alone where they are the
            features, `(context + answer - 1, width)`, bfloat16.
        num_context: number of prompt tokens at the start.
    """

    source: str
    tokens: Tensor
    states: Tensor
    num_context: int


@dataclass(frozen=True)
class Batch:
    """Sequences on a grid of C context positions and A answer positions.

    Attributes:
        tokens: `(batch, C + A)`.
        features: `(batch, C + A, width)`.
        hidden: final hidden states `(batch, C + A, H)`.
        context_start: first used position of each row `(batch,)`.
        num_answer: number of answer tokens of each row `(batch,)`.
    """

    tokens: Tensor
    features: Tensor
    hidden: Tensor
    context_start: Tensor
    num_answer: Tensor


def load_sequences(folder: Path) -> list[Sequence]:
    """All answers in the shards of `folder`.

    Raises:
        AssetError: there are none.
    """
    sequences: list[Sequence] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as shard:
            source = shard.metadata()["source"]
            tokens, states = shard.get_tensor("tokens").long(), shard.get_tensor("states")
            token_at = state_at = 0
            for context, answer in shard.get_tensor("lengths").tolist():
                length = context + answer
                sequences.append(
                    Sequence(
                        source,
                        tokens[token_at : token_at + length],
                        states[state_at : state_at + length - 1],
                        context,
                    )
                )
                token_at, state_at = token_at + length, state_at + length - 1
    if not sequences:
        raise AssetError(f"no training shards in {folder}; collect them first")
    return sequences


def batches(
    sequences: list[Sequence], size: int, seed: int, first_step: int, hidden_size: int | None = None
) -> Iterator[Batch]:
    """Endless shuffled batches, starting exactly at `first_step`."""
    per_epoch = len(sequences) // size
    step = first_step
    while True:
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(
            len(sequences), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        ).tolist()
        chosen = order[place * size : (place + 1) * size]
        yield make_batch([sequences[i] for i in chosen], hidden_size)
        step += 1


def make_batch(sequences: list[Sequence], hidden_size: int | None = None) -> Batch:
    """Places sequences on the grid.

    Args:
        sequences: of one width of states.
        hidden_size: of the hidden states at the end of the states; a quarter of them unless given.
    """
    size, width = len(sequences), CONTEXT_TOKENS + MAX_NEW_TOKENS
    state_size = sequences[0].states.shape[1]
    tokens = torch.zeros(size, width, dtype=torch.long)
    states = torch.zeros(size, width, state_size)
    for row, sequence in enumerate(sequences):
        start = CONTEXT_TOKENS - sequence.num_context
        tokens[row, start : start + len(sequence.tokens)] = sequence.tokens
        states[row, start : start + len(sequence.states)] = sequence.states
    starts = torch.tensor([CONTEXT_TOKENS - s.num_context for s in sequences])
    num_answer = torch.tensor([len(s.tokens) - s.num_context for s in sequences])
    hidden_size = hidden_size or state_size // 4
    features = states[..., : state_size - hidden_size or hidden_size]
    return Batch(tokens, features, states[..., -hidden_size:], starts, num_answer)
