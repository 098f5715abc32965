"""What ranks tokens in a deployment that sees several domains."""

from collections.abc import Mapping

import numpy as np

from bench.errors import VocabError
from bench.vocab.draft_vocab import Floats, IntArray


def mixture_scores(counts: Mapping[str, IntArray], weights: Mapping[str, float]) -> Floats:
    """Expected frequency of each token in a deployment that sees several domains `(V,)`.

    Args:
        counts: token counts `(V,)` by domain.
        weights: share of each domain in the deployment, in any unit; one domain alone ranks by its counts.

    Raises:
        VocabError: a weighted domain is unknown or nothing was counted in it.
    """
    used = {name: weight for name, weight in weights.items() if weight > 0}
    for name in used:
        if name not in counts:
            raise VocabError(f"cannot rank by domain {name}: known are {', '.join(counts)}")
        if not counts[name].any():
            raise VocabError(f"cannot rank by domain {name}: no response token was counted in it")
    total = sum(used.values())
    if len(used) == 1:
        # Whole numbers, so that equal counts stay equal.
        return counts[next(iter(used))].astype(np.float64)
    scores = [weight / total * (counts[name] / counts[name].sum()) for name, weight in used.items()]
    return np.sum(scores, axis=0)
