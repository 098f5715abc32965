"""The exact optimum over every k at the largest vocabulary in use, against a loop over k."""

import numpy as np
import pytest

from bench.vocab.search import SearchSpace, exact_optimum, utility

V = 262_144


@pytest.fixture(scope="module")
def curves():
    k = np.arange(1, V + 1)
    return 1 - np.exp(-k / 5000), 0.65 * (1 - k / V)


@pytest.mark.parametrize("way", ["vectorised", "loop"])
def test_exact_optimum(benchmark, curves, way):
    benchmark.group = "search"
    coverage, reduction = curves
    space = SearchSpace(0.5, 0.5, 50, V)

    def loop() -> int:
        best, size = -1.0, 0
        for k in range(space.k_min, V + 1):
            value = 0.5 * coverage[k - 1] + 0.5 * reduction[k - 1]
            if coverage[k - 1] >= space.min_coverage and value > best:
                best, size = value, k
        return size

    found = benchmark(loop if way == "loop" else lambda: exact_optimum(coverage, reduction, space).vocab_size)
    assert found == int(np.argmax(utility(coverage, reduction, 0.5))) + 1
