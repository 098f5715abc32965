"""Latency of attention on one GPU with one engine: new tokens of every sequence over the context it holds.

Tables have a grid of batch and context for pairs of query and key heads. Latency is joined by straight lines
between the logarithms of the grid. Beyond it, where keys did not fit into memory or nobody measured, it grows
as they do: reading keys is what such attention does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import FitError
from bench.gpu_tables.products import Basis
from bench.stats.robust import Floats


@dataclass(frozen=True)
class Heads:
    """Heads of one layer.

    Attributes:
        query: heads.
        key_value: heads.
        head_dim: width of one.
        window: positions that a token sees at most; 0 for all.
    """

    query: int
    key_value: int
    head_dim: int
    window: int = 0


@dataclass(frozen=True)
class ContextLatency:
    """Looked-up latency of one layer's attention.

    Attributes:
        ms: the latency.
        basis: what it rests on.
    """

    ms: float
    basis: Basis


class Attention:
    """Look-up of one new token per sequence, as `bench.gpu_tables.tidy.Tables.attention` has it.

    A verification of n tokens per sequence reads every key once for all of them, as n times the query heads
    on the same key heads do: such rows are taken for it. On an H100, 64 query heads on 8 key heads cost what
    32 do at every tabulated batch and context, within a few percent.
    """

    def __init__(self, table: pd.DataFrame, kv_dtype: str = "bfloat16"):
        rows = table[table["kv_dtype"] == kv_dtype]
        if rows.empty:
            there = ", ".join(sorted(table["kv_dtype"].unique()))
            raise FitError(f"no attention over {kv_dtype} keys is tabulated, only {there}")
        # Where several kernels of an engine are there, the one with the most rows is its usual one.
        usual = rows["kernel"].value_counts().index.tolist()
        rows = rows.assign(order=rows["kernel"].map(usual.index)).sort_values("order", kind="stable")
        axes = ["query_heads", "key_value_heads", "head_dim", "window"]
        rows = rows.drop_duplicates([*axes, "batch", "context"])
        self.kernels = rows["kernel"].unique().tolist()
        self._rows = {
            Heads(*np.asarray(heads, dtype=int).tolist()): group for heads, group in rows.groupby(axes)
        }
        self.at, self._grid = cache(self._at), cache(self._grid_of)

    def _grid_of(self, heads: Heads) -> "_Grid":
        return _Grid.of(self._rows[heads])

    def _at(self, heads: Heads, batch: int, context: int, num_tokens: int = 1) -> ContextLatency:
        """Latency of one layer.

        Args:
            heads: of the layer.
            batch: sequences.
            context: positions that each holds.
            num_tokens: new tokens of each.

        Raises:
            FitError: no layer with such heads is tabulated.
        """
        one = self._of(heads, batch, context)
        if num_tokens == 1:
            return one
        wanted = Heads(heads.query * num_tokens, heads.key_value, heads.head_dim, heads.window)
        several = self._of(wanted, batch, context)
        # Single rows scatter: several tokens never take less than one.
        return several if several.ms > one.ms else ContextLatency(one.ms, several.basis)

    def _of(self, heads: Heads, batch: int, context: int) -> ContextLatency:
        if heads in self._rows:
            return self._grid(heads).at(batch, context)
        of_window = [known for known in self._rows if known.window == heads.window]
        if not of_window:
            raise FitError(f"no attention with a window of {heads.window} positions is tabulated")
        widths = {known.head_dim for known in of_window}
        if heads.head_dim in widths:
            beside = [known for known in of_window if known.head_dim == heads.head_dim]
            return self._from_others(beside, heads, batch, context)
        # Heads of another width, as many of them as move the same bytes.
        width = min(widths, key=lambda known: abs(np.log(known / heads.head_dim)))
        beside = [known for known in of_window if known.head_dim == width]
        found = self._from_others(beside, heads, batch, context, heads.head_dim / width)
        return ContextLatency(found.ms, Basis.EXTRAPOLATED)

    def _from_others(
        self, known: Sequence[Heads], wanted: Heads, batch: int, context: int, scale: float = 1.0
    ) -> ContextLatency:
        """Key heads below and above, with the query heads nearest to the wanted share of each.

        Beyond the tabulated query heads the row with the most is taken: what they cost is the keys.
        """
        key_value = wanted.key_value * scale
        counts = sorted({heads.key_value for heads in known})
        low = max((count for count in counts if count <= key_value), default=counts[0])
        high = min((count for count in counts if count >= key_value), default=counts[-1])
        group = wanted.query / wanted.key_value
        found = [self._nearest(known, count, group, batch, context) for count in (low, high)]
        if low == high:
            # Below and above all tabulated counts, keys are what grows.
            return ContextLatency(found[0] * max(key_value / low, 1.0), _among(counts, key_value))
        share = np.log(key_value / low) / np.log(high / low)
        ms = float(np.exp((1 - share) * np.log(found[0]) + share * np.log(found[1])))
        return ContextLatency(ms, _among(counts, key_value))

    def _nearest(
        self, known: Sequence[Heads], key_value: int, group: float, batch: int, context: int
    ) -> float:
        beside = [heads for heads in known if heads.key_value == key_value]
        nearest = min(beside, key=lambda heads: abs(np.log(heads.query / (group * key_value))))
        return self._grid(nearest).at(batch, context).ms


def _among(counts: Sequence[int], wanted: float) -> Basis:
    return Basis.INTERPOLATED if counts[0] <= wanted <= counts[-1] else Basis.EXTRAPOLATED


@dataclass(frozen=True)
class _Grid:
    """Latencies by batch and context.

    Attributes:
        batches: ascending.
        lengths: context + 1, ascending: what a token sees.
        log_ms: of every batch and length, filled up where there is no row `(batches, lengths)`.
        is_there: which of them have a row `(batches, lengths)`.
    """

    batches: Floats
    lengths: Floats
    log_ms: Floats
    is_there: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "_Grid":
        grid = rows.pivot(index="batch", columns="context", values="latency_ms")
        batches, lengths = grid.index.to_numpy(float), grid.columns.to_numpy(float) + 1
        log_ms = np.log(grid.to_numpy(float))
        return cls(batches, lengths, _filled(log_ms, batches, lengths), np.isfinite(log_ms))

    def at(self, batch: int, context: int) -> ContextLatency:
        length = context + 1
        row, row_share, row_beyond = _between(self.batches, batch)
        column, share, beyond = _between(self.lengths, length)
        block = self.log_ms[np.ix_(row, column)]
        weights = np.outer([1 - row_share, row_share], [1 - share, share])
        known = bool(self.is_there[np.ix_(row, column)][weights > 0].all()) and row_beyond == beyond == 1
        exact = known and bool((weights == 1).any())
        basis = Basis.EXACT if exact else Basis.INTERPOLATED if known else Basis.EXTRAPOLATED
        return ContextLatency(float(np.exp((weights * block).sum()) * row_beyond * beyond), basis)


def _between(x: Floats, at: float) -> tuple[list[int], float, float]:
    """Places below and above, the share of the way between their logarithms, and how far beyond the last."""
    above = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1)) if len(x) > 1 else 0
    below = max(above - 1, 0)
    share = 0.0 if above == below else float(np.log(at / x[below]) / np.log(x[above] / x[below]))
    return [below, above], float(np.clip(share, 0, 1)), max(at / x[-1], 1.0)


def _filled(log_ms: Floats, batches: Floats, lengths: Floats) -> Floats:
    """Where there is no row: the neighbours with fewer keys, and as much longer as there are more keys."""
    found = log_ms.copy()
    for row in range(len(batches)):
        for column in range(len(lengths)):
            if np.isfinite(found[row, column]):
                continue
            before = []
            if row:
                before.append(found[row - 1, column] + np.log(batches[row] / batches[row - 1]))
            if column:
                before.append(found[row, column - 1] + np.log(lengths[column] / lengths[column - 1]))
            known = [value for value in before if np.isfinite(value)]
            if known:
                found[row, column] = np.mean(known)
    # What is left misses its smaller neighbours too: the smallest there is.
    return np.where(np.isfinite(found), found, np.nanmin(found))
