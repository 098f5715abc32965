"""Latency of a matrix product on one GPU with one engine: m tokens, n outputs, k inputs.

Exact where the table has the row. Else from the surface of all rows at the same m, between the two tabulated
m around it; and labelled as extrapolated beyond the table. Rows that are faster than memory allows, or that
contradict their neighbours, are named and do not bend the surface.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import FitError
from bench.gpu_tables.surface import Surface
from bench.gpu_tables.tidy import WEIGHT_BYTES, TableKey
from bench.stats.robust import Floats, fit_nonnegative

# Smaller products take as long as their launch, and say nothing of larger ones.
SMALLEST = 256

# A row contradicts its neighbours when it is off by so many typical deviations, and by this share at least.
_FEWEST_ROWS = 20

_MOST_DEVIATIONS, _LEAST_ERROR = 4.0, 0.10

# Activations are 16 bits in every format: those that are quantised are so inside the kernel.
_ACTIVATION_BYTES = 2


class Basis(Enum):
    """What a latency rests on."""

    EXACT = "exact"
    INTERPOLATED = "interpolated"
    EXTRAPOLATED = "extrapolated"


@dataclass(frozen=True)
class Latency:
    """One looked-up latency.

    Attributes:
        ms: the latency.
        basis: what it rests on.
    """

    ms: float
    basis: Basis


@dataclass(frozen=True)
class LeftOut:
    """Relative errors on what a surface was not fitted to, predicted over tabulated less 1.

    Attributes:
        n: outputs of every row `(rows,)`.
        k: inputs of every row `(rows,)`.
        row_errors: without the row itself `(rows,)`.
        size_errors: without every row of the same n `(rows,)`: what a size between the tabulated ones has.
    """

    n: NDArray[np.int64]
    k: NDArray[np.int64]
    row_errors: Floats
    size_errors: Floats


class Slice:
    """All rows of one m: base t0 + B/W, and the surface around it.

    A base with the idle part of the last wave of blocks lowers the error on sizes left out from 6.1% to 5.7%
    in the median over the ten published GPUs and leaves the worst at 8.2%; a knee at half of the cache, or
    terms in n and k alone, change less. Hence the simple one.

    Attributes:
        n: outputs `(rows,)`.
        k: inputs `(rows,)`.
        ms: latencies `(rows,)`.
        is_warm: which rows move their weights faster than the memory can `(rows,)`.
    """

    def __init__(self, rows: pd.DataFrame, m: int, weight_bytes: float, memory_bytes_per_s: float | None):
        self.m, self._weight_bytes = m, weight_bytes
        self.n, self.k = rows["n"].to_numpy(np.int64), rows["k"].to_numpy(np.int64)
        self.ms = rows["latency_ms"].to_numpy(float)
        rates = self.n * self.k * weight_bytes / (self.ms / 1e3)
        self.is_warm = np.zeros(len(rows), bool) if memory_bytes_per_s is None else rates > memory_bytes_per_s
        self._used = (self.n >= SMALLEST) & (self.k >= SMALLEST) & ~self.is_warm
        self._row = {(int(n), int(k)): place for place, (n, k) in enumerate(zip(self.n, self.k, strict=True))}

    def place(self, n: int, k: int) -> int | None:
        """Where the row of a product stands; None where it is not tabulated."""
        return self._row.get((n, k))

    def curve(self, n: NDArray[np.int64], k: NDArray[np.int64] | int) -> Floats:
        """Latency of the surface in ms for each n `(m,)`, tabulated or not."""
        inputs = np.broadcast_to(k, np.shape(n))
        return self._base(n, inputs) * np.exp(self._screened[0].at(_places(n, inputs)))

    def between(self, n: int, k: int) -> float:
        """Latency of one product that is not tabulated, never outside of its two tabulated neighbours.

        Where the table rises with n, so does the look-up from row to row; its errors on left-out sizes are
        those of the surface, or a little less.
        """
        found = float(self.curve(np.array([n]), k)[0])
        beside = self.n[self.k == k]
        if not (beside < n).any() or not (beside > n).any():
            return found
        ends = [self.place(int(size), k) for size in (beside[beside < n].max(), beside[beside > n].min())]
        low, high = (self.ms[place] for place in ends)
        return float(np.clip(found, low, high)) if low <= high else found

    def is_inside(self, n: int, k: int) -> bool:
        """Whether both sizes lie within those that are tabulated."""
        return bool(self.n.min() <= n <= self.n.max() and self.k.min() <= k <= self.k.max())

    @cached_property
    def left_out(self) -> LeftOut:
        """Errors on rows and sizes that the surface was not fitted to; warm rows are not among them."""
        surface, n = self._surface, self.n[self._used]
        logs = surface.log_ratios
        row, size = surface.without_row() - logs, surface.without_group(n) - logs
        return LeftOut(n, self.k[self._used], np.expm1(row), np.expm1(size))

    def error_beyond(self, largest: int, sizes: Sequence[int], widths: Sequence[int]) -> float:
        """Mean relative error on larger numbers of outputs than `largest`, predicted from all up to it.

        Args:
            largest: that is known.
            sizes: that are predicted.
            widths: inputs that are judged.

        Returns:
            NaN where there are too few rows to know, or none to judge.
        """
        known = self._used & (self.n <= largest)
        judged = ~self.is_warm & np.isin(self.n, sizes) & np.isin(self.k, widths)
        if known.sum() < _FEWEST_ROWS or not judged.any():
            return float("nan")
        moved = moved_bytes(self.m, self.n[known], self.k[known], self._weight_bytes)
        theta = fit_nonnegative(np.stack([np.ones(len(moved)), moved], axis=1), self.ms[known][None])[0]
        surface = Surface(
            _places(self.n[known], self.k[known]), np.log(self.ms[known] / (theta[0] + theta[1] * moved))
        )
        n, k = self.n[judged], self.k[judged]
        base = theta[0] + theta[1] * moved_bytes(self.m, n, k, self._weight_bytes)
        return float(np.abs(base * np.exp(surface.at(_places(n, k))) / self.ms[judged] - 1).mean())

    @cached_property
    def contradicts(self) -> NDArray[np.bool_]:
        """Which rows contradict their neighbours `(rows,)`."""
        return np.isfinite(self._contradictions)

    def doubt(self, place: int) -> str | None:
        """Why a row is doubtful, in words; None where it is not."""
        if self.is_warm[place]:
            return "faster than the memory can deliver the weights: they were in the cache"
        if not self.contradicts[place]:
            return None
        ratio = float(np.exp(self._contradictions[place]))
        return f"{abs(ratio - 1):.0%} {'slower' if ratio > 1 else 'faster'} than its neighbours say"

    @cached_property
    def _contradictions(self) -> Floats:
        """Logarithm of each contradicting row over what its neighbours say, NaN for all others `(rows,)`."""
        found = np.full(len(self.n), np.nan)
        found[self._used] = self._screened[1]
        return found

    @property
    def base(self) -> tuple[float, float]:
        """t0 in ms and W in bytes/s of the base."""
        t0, slope = self._theta
        return float(t0), float(1e3 / slope) if slope > 0 else float("inf")

    def _base(self, n: NDArray[np.int64], k: NDArray[np.int64]) -> Floats:
        return self._theta[0] + self._theta[1] * moved_bytes(self.m, n, k, self._weight_bytes)

    @cached_property
    def _theta(self) -> Floats:
        used = self._used
        if used.sum() < 4:
            raise FitError(f"{used.sum()} rows of m = {self.m} make no curve; at least 4 are needed")
        moved = moved_bytes(self.m, self.n[used], self.k[used], self._weight_bytes)
        return fit_nonnegative(np.stack([np.ones(len(moved)), moved], axis=1), self.ms[used][None])[0]

    @cached_property
    def _screened(self) -> tuple[Surface, Floats]:
        return self._surface.screened(_MOST_DEVIATIONS, float(np.log1p(_LEAST_ERROR)))

    @cached_property
    def _surface(self) -> Surface:
        n, k = self.n[self._used], self.k[self._used]
        return Surface(_places(n, k), np.log(self.ms[self._used] / self._base(n, k)))


class Products:
    """Look-up in one table."""

    def __init__(
        self,
        key: TableKey,
        rows: pd.DataFrame,
        memory_bytes_per_s: float | None,
        scales: pd.DataFrame | None = None,
    ):
        """Reads one table.

        Args:
            key: of the table.
            rows: of it, with the columns of `bench.gpu_tables.tidy`.
            memory_bytes_per_s: of the GPU; None where unknown, then no row is found faster than it.
            scales: what finding the scale of inputs took, by m and k, which the rows include and checkpoints
                with fixed scales do without; None to leave it in.
        """
        self.key, self._memory = key, memory_bytes_per_s
        if scales is not None:
            rows = _without_scales(rows, scales)
        # In one order, so that slices of the same sizes share what depends on sizes alone.
        places = np.lexsort([rows[name].to_numpy() for name in ("k", "n", "m")])
        self._rows = rows.iloc[places]
        self.tokens, starts = np.unique(self._rows["m"].to_numpy(), return_index=True)
        ends = [*starts[1:].tolist(), len(rows)]
        self._start = dict(zip(self.tokens.tolist(), zip(starts.tolist(), ends, strict=True), strict=True))
        whole = self.tokens[(self.tokens & (self.tokens - 1)) == 0]
        self._whole = whole if len(whole) > 1 else self.tokens
        self.kernels = sorted(rows["kernel"].unique())
        self.slice, self._end = cache(self._slice), cache(self._end_of)
        self._curves: dict[tuple[int, bytes, int], Floats] = {}

    def at(self, m: int, n: int, k: int) -> Latency:
        """Latency of one product.

        Raises:
            FitError: the table has too few rows at that m.
        """
        place = self.slice(m).place(n, k) if m in self._start else None
        if place is not None:
            return Latency(float(self.slice(m).ms[place]), Basis.EXACT)
        low, high, share = self._around(m)
        ends = [self._end(tokens, n, k) for tokens in (low, high)]
        return Latency(ends[0] + share * (ends[1] - ends[0]), self.basis(m, n, k))

    def doubt(self, m: int, n: int, k: int) -> str | None:
        """Why the row of a product is doubtful, in words; None where it is not, or where there is none."""
        if m not in self.tokens:
            return None
        place = self.slice(m).place(n, k)
        return None if place is None else self.slice(m).doubt(place)

    def curve(self, m: int, n: NDArray[np.int64], k: int) -> Floats:
        """Latency of the surface for each n `(len(n),)`: what a vocabulary costs by its size.

        Single rows scatter by some percent, which a choice between sizes must not follow.
        """
        asked = (m, n.tobytes(), k)
        if asked not in self._curves:
            low, high, share = self._around(m)
            first = self.slice(low).curve(n, k)
            found = first if low == high else first + share * (self.slice(high).curve(n, k) - first)
            self._curves[asked] = found
        return self._curves[asked]

    def basis(self, m: int, n: int, k: int) -> Basis:
        """What a latency rests on."""
        if m in self._start and self.slice(m).place(n, k) is not None:
            return Basis.EXACT
        in_range = self.tokens[0] <= m <= self.tokens[-1] and self.slice(self._around(m)[0]).is_inside(n, k)
        return Basis.INTERPOLATED if in_range else Basis.EXTRAPOLATED

    def _end_of(self, tokens: int, n: int, k: int) -> float:
        rows = self.slice(tokens)
        place = rows.place(n, k)
        return rows.between(n, k) if place is None else float(rows.ms[place])

    def _around(self, m: int) -> tuple[int, int, float]:
        """Tabulated m below and above, and how far between them; beyond the table by its last two.

        Of those that are powers of two where there are any, as latency hardly bends between them and every
        other m would need a surface of its own.
        """
        tokens = self._whole
        exact = np.flatnonzero(tokens == m)
        if len(exact) or len(tokens) == 1:
            found = int(tokens[exact[0]]) if len(exact) else int(tokens[0])
            return found, found, 0.0
        above = int(np.clip(np.searchsorted(tokens, m), 1, len(tokens) - 1))
        low, high = int(tokens[above - 1]), int(tokens[above])
        return low, high, max((m - low) / (high - low), 0.0)

    def _slice(self, m: int) -> Slice:
        start, end = self._start[m]
        return Slice(self._rows.iloc[start:end], m, WEIGHT_BYTES[self.key.dtype], self._memory)


def _without_scales(rows: pd.DataFrame, scales: pd.DataFrame) -> pd.DataFrame:
    found = rows.merge(scales.rename(columns={"latency_ms": "scale_ms"}), on=["m", "k"], how="inner")
    # Both were measured apart: what is left is at least a tenth, not less than nothing.
    left = np.maximum(found["latency_ms"] - found["scale_ms"], found["latency_ms"] / 10)
    return found.assign(latency_ms=left).drop(columns="scale_ms")


def moved_bytes(m: int, n: NDArray[np.int64], k: NDArray[np.int64], weight_bytes: float) -> Floats:
    """Weights, inputs and outputs of products, each moved once."""
    outputs, inputs = np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64)
    return outputs * inputs * weight_bytes + m * (outputs + inputs) * _ACTIVATION_BYTES


def _places(n: NDArray[np.int64], k: NDArray[np.int64]) -> Floats:
    return np.stack([np.log(n), np.log(k)], axis=1)
