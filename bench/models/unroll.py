"""An EAGLE-3 draft unrolled over its own outputs from many places of a known text at once.

At depth 0 every place reads true features. At depth j it reads the draft's own output of depth j - 1 with
the next token of the text, and attends to the true places up to where its chain began plus the chain
itself - what a real draft sees after j tokens that were all right.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.models.eagle3 import Eagle3Body
from bench.models.layers import apply_rotary


class Unroll:
    """Chains over one batch of texts; differentiable.

    Args:
        body: the draft.
        tables: rotary cos and sin `(positions, head_dim)`.
        embeds: embedding of the token that follows each place `(batch, places, H)`.
        features: the target's features at each place `(batch, places, 3H)`.
        is_real: places that are text and not padding `(batch, places)`; all of them unless given.
    """

    def __init__(
        self,
        body: Eagle3Body,
        tables: tuple[Tensor, Tensor],
        embeds: Tensor,
        features: Tensor,
        is_real: Tensor | None = None,
    ):
        self._body, self._tables, self._embeds, self._is_real = body, tables, embeds, is_real
        self._hidden = body.fc(features)
        keys, self._values = body.keys_values(embeds, self._hidden)
        self._keys = self._rotate(keys, 0)

    def chains(self, start: int, stop: int, depths: int) -> Iterator[Tensor]:
        """Layer outputs by depth of the chains that begin at places start..stop - 1.

        Yields:
            `(batch, chains, H)` for each depth; chains whose text has ended are left out at the end.
        """
        body, num_places = self._body, self._embeds.shape[1]
        hidden = self._hidden[:, start:stop]
        mask = self._mask(start, stop)
        chain: list[tuple[Tensor, Tensor]] = []
        for depth in range(depths):
            first, last = start + depth, min(stop + depth, num_places)
            hidden = hidden[:, : last - first]
            q, k, v = body.queries_keys_values(self._embeds[:, first:last], hidden)
            if depth:
                chain.append((self._rotate(k, first), v))
            hidden = body.finish(self._attend(self._rotate(q, first), mask, chain), hidden)
            yield hidden

    def _mask(self, start: int, stop: int) -> Tensor:
        """Which true places each chain sees `(batch or 1, 1, 1, chains, places)`."""
        places = torch.arange(stop, device=self._embeds.device)
        seen = (places[None, :] <= places[start:, None])[None]
        if self._is_real is not None:
            seen = seen & self._is_real[:, None, :stop]
        return seen[:, None, None]

    def _rotate(self, x: Tensor, start: int) -> Tensor:
        cos, sin = self._tables
        return apply_rotary(x, cos[start : start + x.shape[2]], sin[start : start + x.shape[2]])

    def _attend(self, q: Tensor, mask: Tensor, chain: list[tuple[Tensor, Tensor]]) -> Tensor:
        n, seen = q.shape[2], mask.shape[-1]
        keys, values = self._keys[:, :, None, :seen], self._values[:, :, None, :seen]
        q = q.unflatten(1, (keys.shape[1], -1)) * q.shape[-1] ** -0.5
        scores = (q @ keys.transpose(-1, -2)).masked_fill(~mask[:, :, :, :n], float("-inf"))
        own = [(q * k[:, :, None, :n]).sum(-1, keepdim=True) for k, _ in chain]
        weights = torch.softmax(torch.cat([scores, *own], dim=-1), dim=-1)
        attended = weights[..., :seen] @ values
        for index, (_, v) in enumerate(chain):
            attended = attended + weights[..., seen + index, None] * v[:, :, None, :n]
        return attended.flatten(1, 2)
