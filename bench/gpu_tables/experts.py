"""Latency of a whole layer of experts on one GPU with one engine: router aside, all that replaces an MLP."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pandas as pd

from bench.errors import FitError
from bench.gpu_tables.products import Basis
from bench.gpu_tables.target import Experts
from bench.gpu_tables.tidy import WEIGHT_BYTES

# Formats that only experts come in store a scale for every 32 weights.
EXPERT_BYTES = WEIGHT_BYTES | {"w4a16_mxfp4": 0.5 + 1 / 32, "w4a8_mxfp4_mxfp8": 0.5 + 1 / 32}


class ExpertTable:
    """Look-up in one table; routing is as skewed as the table's middle one, where it has several."""

    def __init__(self, read: Callable[[], pd.DataFrame]):
        """Reads nothing before it is asked: most targets have no experts.

        Args:
            read: the rows, as `bench.gpu_tables.tidy.Tables.experts` has them.
        """
        self._read = read

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return self._read()

    def format_of(self, experts: Experts, hidden_size: int, dtype: str) -> tuple[str, str]:
        """Format and kernel of a layer: `dtype` where it is tabulated, else the engine's usual one.

        Raises:
            ConfigError: there is no such table.
            FitError: no layer of these sizes is tabulated.
        """
        rows = self._of(experts, hidden_size)
        in_dtype = rows[rows["dtype"] == dtype]
        counts = (in_dtype if len(in_dtype) else rows)[["dtype", "kernel"]].value_counts()
        return min(counts[counts == counts.max()].index)

    def at(self, experts: Experts, hidden_size: int, dtype: str, num_tokens: int) -> tuple[float, Basis]:
        """Latency of one layer in ms, and what it rests on.

        Raises:
            ConfigError: there is no such table.
            FitError: no layer of these sizes is tabulated.
        """
        rows = self._of(experts, hidden_size)
        used, kernel = self.format_of(experts, hidden_size, dtype)
        rows = rows[(rows["dtype"] == used) & (rows["kernel"] == kernel)]
        by_routing = rows.groupby(["tokens", "routing"])["latency_ms"].median().unstack()
        middle = by_routing.median(axis=1).sort_index()
        tokens = middle.index.to_numpy(float)
        ms = float(np.exp(np.interp(np.log(num_tokens), np.log(tokens), np.log(middle.to_numpy(float)))))
        if num_tokens in tokens:
            return ms, Basis.EXACT
        inside = tokens[0] <= num_tokens <= tokens[-1]
        return ms, Basis.INTERPOLATED if inside else Basis.EXTRAPOLATED

    def _of(self, experts: Experts, hidden_size: int) -> pd.DataFrame:
        rows = self._rows
        sizes = {
            "hidden_size": hidden_size, "expert_size": experts.size, "num_experts": experts.count,
            "experts_per_token": experts.per_token,
        }  # fmt: skip
        for name, wanted in sizes.items():
            rows = rows[rows[name] == wanted]
        if rows.empty:
            raise FitError(
                f"no layer of {experts.count} experts {experts.size} wide, {experts.per_token} a token, at "
                f"hidden size {hidden_size} is tabulated"
            )
        return rows
