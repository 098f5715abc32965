"""A pass of a draft or target on one GPU with one engine, from published kernels, and what no table holds.

Products and attention are looked up. Everything else is a named term with a range and its source: small
operations, the choice of a token, the way back from a trimmed vocabulary to the target's ids, and what a host
does between passes. Tensor parallelism is 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cost.shape import DraftKind, DraftShape, Pass
from bench.errors import FitError
from bench.gpu_tables.attention import Attention, Heads
from bench.gpu_tables.experts import EXPERT_BYTES, ExpertTable
from bench.gpu_tables.products import Basis, Products
from bench.gpu_tables.target import Target
from bench.gpu_tables.tidy import WEIGHT_BYTES, Gpu
from bench.stats.robust import Floats

# Parts of a pass, in the order in which it runs them.
FC, QKV, ATTENTION, OUT = "fc", "qkv", "attention", "o"
UP, DOWN, EXPERTS, HEAD = "mlp_up", "mlp_down", "experts", "lm_head"
SMALL, SELECTION, MAPPING = "small_ops", "selection", "to_target_ids"

PARTS = (FC, QKV, ATTENTION, OUT, UP, DOWN, EXPERTS, HEAD, SMALL, SELECTION, MAPPING)

# Activations, keys, values and heads: checkpoints in fewer bits leave these in 16.
_BYTES = 2

_LOGIT_BYTES = 4  # engines choose tokens from float32

# Two norms with the residual added, rotary embedding, and the gate's product: as engines fuse them.
_SMALL_PER_LAYER = 4

# A wide first layer norms embedding and features apart and joins them.
_SMALL_OF_WIDE_LAYER = 3

_SMALL_PER_PASS = 2  # embedding, last norm


class Level(Enum):
    """Which end of the ranges of terms that no table holds."""

    LOW = "low"
    LIKELY = "likely"
    HIGH = "high"


@dataclass(frozen=True)
class Terms:
    """What no table holds, at one end of its range; times of one kernel, and counts of passes over data.

    Attributes:
        small_us: of one small kernel in a CUDA graph, memory aside.
        selection_passes: over the logits, to choose a token.
        scatters_logits: whether a trimmed draft's logits are written into a row as wide as the target's
            vocabulary, instead of mapping the chosen id.
        scatter_passes: over that row, counted in plain copies.
    """

    small_us: float
    selection_passes: float
    scatters_logits: bool
    scatter_passes: float


TERMS: Mapping[Level, Terms] = {
    Level.LOW: Terms(1.3, 1, False, 0),
    Level.LIKELY: Terms(2.0, 2, False, 0),
    Level.HIGH: Terms(3.0, 6, True, 6),
}

SOURCES = (
    "small kernels (norms, rotary embedding, gate, embedding): 1.3 to 3 us each and their bytes, likely 2; "
    "the wheel's elementwise kernels (scale_matrix) take 1.3 to 2.2 us for one token, and its systems/*.yaml "
    "add a constant of 3 us",
    "choosing a token: 1 to 6 passes over float32 logits, likely 2 (a copy in float32, and the largest)",
    "trimmed ids back to the target's: one small kernel where the chosen id is mapped (SGLang); at most a "
    "row of V logits filled and written by index, which took 5 times a plain copy on an H20 (vLLM PR 53458)",
    "host work and gaps between passes: not in these figures; see the check against whole models",
)


@dataclass(frozen=True)
class Part:
    """Latency of one part of a pass.

    Attributes:
        ms: over all layers.
        basis: what it rests on; None for a term that no table holds.
    """

    ms: float
    basis: Basis | None


@dataclass
class TableLatency:
    """Latency of passes on one GPU with one engine; a `bench.predict.model.LatencySource`.

    Attributes:
        gpu: of the tables.
        layers: table of the target's layers.
        wide: table in 16 bits, of drafts and of LM heads.
        attention: of the same GPU and engine.
        experts: whole expert layers; None without a table.
        origin: where the tables are from.
        level: which end of the ranges.
    """

    gpu: Gpu
    layers: Products
    wide: Products
    attention: Attention
    experts: ExpertTable | None = None
    origin: str = ""
    level: Level = Level.LIKELY
    _memo: dict[tuple, Part] = field(default_factory=dict, repr=False)

    def pass_ms(
        self, model: DraftShape, run: Pass, sizes: NDArray[np.int64], *, with_fc: bool = False
    ) -> Floats:
        """See `bench.predict.model.LatencySource`."""
        parts = self.parts(model, run, with_fc=with_fc)
        body = sum(part.ms for part in parts.values())
        return body + self.tail_ms(model, run, sizes)

    def parts(self, model: DraftShape, run: Pass, *, with_fc: bool = False) -> dict[str, Part]:
        """Everything before the LM head.

        Raises:
            FitError: a part cannot be had from these tables; the message says why.
        """
        rows, hidden, layers = run.rows, model.hidden_size, model.num_layers
        query = model.num_attention_heads * model.head_dim
        key_value = model.num_key_value_heads * model.head_dim
        is_wide = model.has_wide_first_layer
        is_draft = model.kind is not DraftKind.DECODER_LM
        table = self.wide if is_draft else self.layers
        width = 2 * hidden if is_wide else hidden
        found = {
            QKV: self._products(table, rows, query + 2 * key_value, width, 1),
            OUT: self._products(table, rows, hidden, query, layers),
            ATTENTION: self._context(model, run),
        }
        if layers > 1 or not is_wide:
            rest = layers - 1 if is_wide else layers
            others = self._products(table, rows, query + 2 * key_value, hidden, rest)
            found[QKV] = others if not is_wide else _sum([found[QKV], others])
        found |= self._feed_forward(model, rows, table)
        if model.fc_width and (with_fc or model.has_fc_in_every_step):
            found[FC] = self._products(self.wide, rows, hidden, model.fc_width, 1)
        small = _SMALL_PER_LAYER * layers + _SMALL_PER_PASS + (_SMALL_OF_WIDE_LAYER if is_wide else 0)
        # Each reads and writes a state or two.
        found[SMALL] = Part(self._small(small, 3 * small * rows * hidden * _BYTES), None)
        return {name: found[name] for name in PARTS if name in found}

    def tail_ms(self, model: DraftShape, run: Pass, sizes: NDArray[np.int64]) -> Floats:
        """LM head, choice of a token, and its id in the target's vocabulary, for each size `(m,)`."""
        return self.head_ms(model, run, sizes) + self.selection_ms(model, run, sizes)

    def head_ms(self, model: DraftShape, run: Pass, sizes: NDArray[np.int64]) -> Floats:
        """LM head alone, by the fitted surface."""
        found = self.wide.curve(run.rows, np.asarray(sizes), model.hidden_size)
        return np.maximum(found, self._memory_ms(np.asarray(sizes) * float(model.hidden_size) * _BYTES))

    def selection_ms(self, model: DraftShape, run: Pass, sizes: NDArray[np.int64]) -> Floats:
        """Choice of a token from logits, and back to the target's ids where the vocabulary is trimmed."""
        terms, rows = TERMS[self.level], run.rows
        logits = rows * np.asarray(sizes, float) * _LOGIT_BYTES
        chosen = terms.selection_passes * (1e-3 * terms.small_us + self._memory_ms(logits))
        is_trimmed = np.asarray(sizes) < model.vocab_size
        mapped = self._small(1, 0.0)
        if terms.scatters_logits:
            mapped = self._small(2, terms.scatter_passes * rows * model.vocab_size * _LOGIT_BYTES)
        return chosen + np.where(is_trimmed, mapped, 0.0)

    def head_basis(self, model: DraftShape, run: Pass, size: int) -> Basis:
        """What the latency of a head of `size` rows rests on."""
        return self.wide.basis(run.rows, size, model.hidden_size)

    def expert_format(self, model: DraftShape) -> tuple[str, str] | None:
        """Format and kernel of a target's experts; None where it has none.

        Raises:
            BenchError: no table holds them.
        """
        if not isinstance(model, Target) or model.experts is None:
            return None
        if self.experts is None:
            raise FitError(f"{self.gpu.name} with {self.layers.key.engine} has no table of expert layers")
        return self.experts.format_of(model.experts, model.hidden_size, self.layers.key.dtype)

    def weight_bytes(self, model: DraftShape) -> float:
        """Bytes of a target's weights: layers in the table's format, experts in theirs.

        Raises:
            BenchError: no table holds its experts.
        """
        known = self.expert_format(model)
        layers = WEIGHT_BYTES[self.layers.key.dtype]
        return model_bytes(model, layers, layers if known is None else EXPERT_BYTES[known[0]])

    @property
    def assumptions(self) -> list[str]:
        """See `bench.predict.model.LatencySource`."""
        key, wide = self.layers.key, self.wide.key
        tables = key.label if key == wide else f"{key.label}; drafts and LM heads {wide.dtype}"
        return [
            f"kernels as published in {self.origin}, measured by others: {tables}; attention by "
            f"{', '.join(self.attention.kernels)}",
            "the LM head by a surface fitted to all rows that are not faster than memory allows; what no row "
            "has is interpolated, and extrapolated beyond 65,536 rows",
            "a product that takes longer for one token than for two is padded to two",
            "a verification's attention as that of so many times the query heads: every key is read once",
            *SOURCES,
        ]

    def _feed_forward(self, model: DraftShape, rows: int, table: Products) -> dict[str, Part]:
        if isinstance(model, Target) and model.experts is not None:
            if self.experts is None:
                raise FitError(f"{self.gpu.name} with {table.key.engine} has no table of expert layers")
            ms, basis = self.experts.at(model.experts, model.hidden_size, table.key.dtype, rows)
            return {EXPERTS: Part(ms * model.num_layers, basis)}
        wide = (2 if model.gated_mlp else 1) * model.intermediate_size
        return {
            UP: self._products(table, rows, wide, model.hidden_size, model.num_layers),
            DOWN: self._products(table, rows, model.hidden_size, model.intermediate_size, model.num_layers),
        }

    def _context(self, model: DraftShape, run: Pass) -> Part:
        windows = model.windows if isinstance(model, Target) else (0,) * model.num_layers
        found = []
        for window in sorted(set(windows)):
            key = (model.num_attention_heads, model.num_key_value_heads, model.head_dim, window)
            seen = min(run.context_length, window) if window else run.context_length
            try:
                one = self.attention.at(Heads(*key), run.batch, run.context_length, run.num_tokens)
                ms, basis = one.ms, one.basis
            except FitError:
                if not window:
                    raise
                # No layer with a window is tabulated: one without, over as many positions.
                one = self.attention.at(Heads(*key[:3]), run.batch, seen, run.num_tokens)
                ms, basis = one.ms, Basis.EXTRAPOLATED
            kept = 2 * run.batch * seen * model.num_key_value_heads * model.head_dim * _BYTES
            found.append(Part(max(ms, float(self._memory_ms(kept))) * windows.count(window), basis))
        return _sum(found)

    def _products(self, table: Products, rows: int, n: int, k: int, count: int) -> Part:
        key = (id(table), rows, n, k)
        if key not in self._memo:
            one = table.at(rows, n, k)
            if rows == 1:
                # Some kernels take longer for one token than for two, to which an engine can pad.
                one = min(one, table.at(2, n, k), key=lambda found: found.ms)
            least = float(self._memory_ms(n * k * WEIGHT_BYTES[table.key.dtype]))
            # A row that is faster than memory had its weights in the cache; a whole model has not.
            self._memo[key] = Part(max(one.ms, least), one.basis)
        one_of = self._memo[key]
        return Part(one_of.ms * count, one_of.basis)

    def _small(self, count: float, moved: float) -> float:
        return float(1e-3 * TERMS[self.level].small_us * count + self._memory_ms(moved))

    def _memory_ms(self, moved: Any) -> Floats:
        """Time that so many bytes take, a number or an array."""
        rate = self.gpu.memory_bytes_per_s
        return np.asarray(moved, dtype=float) * (0.0 if rate is None else 1e3 / rate)


def _sum(parts: list[Part]) -> Part:
    return Part(sum(part.ms for part in parts), worst([part.basis for part in parts]))


def worst(bases: list[Basis | None]) -> Basis | None:
    """The least certain of several."""
    order = (Basis.EXTRAPOLATED, Basis.INTERPOLATED, Basis.EXACT)
    return next((basis for basis in order if basis in bases), None)


@cache
def model_bytes(model: DraftShape, weight_bytes: float, expert_bytes: float = 0.0) -> float:
    """Bytes of a model's weights: layers and experts in their formats, embedding and head in 16 bits."""
    query = model.num_attention_heads * model.head_dim
    key_value = model.num_key_value_heads * model.head_dim
    matrices = 3 if model.gated_mlp else 2
    attention = (query + 2 * key_value) * model.hidden_size + query * model.hidden_size
    feed = matrices * model.hidden_size * model.intermediate_size
    feed_bytes = feed * weight_bytes
    if isinstance(model, Target) and model.experts is not None:
        feed_bytes = 3 * model.hidden_size * model.experts.size * model.experts.count * expert_bytes
    ends = (1 if model.tied_head else 2) * model.hidden_size * model.vocab_size * _BYTES
    return (attention * weight_bytes + feed_bytes) * model.num_layers + ends
