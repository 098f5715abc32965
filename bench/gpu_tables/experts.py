"""Latency of a whole layer of experts on one GPU with one engine: router aside, all that replaces an MLP."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pandas as pd

from bench.errors import FitError
from bench.gpu_tables.products import Basis
from bench.gpu_tables.target import Experts


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

    def at(self, experts: Experts, hidden_size: int, num_tokens: int) -> tuple[float, Basis]:
        """Latency of one layer in ms, and what it rests on.

        Raises:
            ConfigError: there is no such table.
            FitError: no layer of these sizes is tabulated.
        """
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
        # One kernel and format: the one with the most rows is the engine's usual one.
        dtype, kernel = rows[["dtype", "kernel"]].value_counts().index[0]
        rows = rows[(rows["dtype"] == dtype) & (rows["kernel"] == kernel)]
        by_routing = rows.groupby(["tokens", "routing"])["latency_ms"].median().unstack()
        middle = by_routing.median(axis=1).sort_index()
        tokens = middle.index.to_numpy(float)
        ms = float(np.exp(np.interp(np.log(num_tokens), np.log(tokens), np.log(middle.to_numpy(float)))))
        if num_tokens in tokens:
            return ms, Basis.EXACT
        inside = tokens[0] <= num_tokens <= tokens[-1]
        return ms, Basis.INTERPOLATED if inside else Basis.EXTRAPOLATED
