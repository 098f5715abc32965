"""Acceptance of a draft for simulators and load tests: `speculation_profile.json`, version 1.0.

The format is that of NVIDIA Model Optimizer (`examples/specdec_bench`, pull request 2247). It names both
conventions, since consumers differ: Dynamo's simulator takes rates on condition that all earlier tokens were
accepted, vLLM's synthetic acceptance takes the rates of whole prefixes (marginal).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.vocab.draft_vocab import Floats

SCHEMA_VERSION = "1.0"

PROFILE = "speculation_profile.json"

# A whole `--speculative-config` of vLLM that accepts at random with the measured rates.
SYNTHETIC = "vllm_synthetic.json"

# The same with a draft length for each batch size.
SCHEDULE = "vllm_schedule.json"

_DIGITS = 6


def speculation_profile(
    walks: Mapping[int, tuple[Floats, Floats]],
    draft_length: int,
    method: str | None,
    draft: Mapping[str, Any],
    target: Mapping[str, Any],
    conditions: Mapping[str, Any],
) -> dict[str, Any]:
    """The profile of one variant.

    Args:
        walks: by draft length, the rounds of every answer `(answers,)`, fractions where they are expected,
            and those of them whose drafted token at each position was accepted `(answers, draft length)`.
        draft_length: gamma that the rates are of.
        method: as engines call the kind of draft; None where they have no name for it.
        draft: what was measured.
        target: what was measured.
        conditions: of the measurement.
    """
    num_rounds, accepted_at = walks[draft_length]
    rounds = float(num_rounds.sum())
    survived = np.concatenate([[rounds], accepted_at.sum(axis=0)])
    marginal = survived[1:] / rounds
    conditional = np.divide(survived[1:], survived[:-1], out=np.zeros(draft_length), where=survived[:-1] > 0)
    # The token that the target adds counts too: length 1 is a round that accepts nothing.
    exactly = survived - np.append(survived[1:], 0.0)
    mean = 1 + float(marginal.sum())
    by_answer = 1 + accepted_at.sum(axis=1) / num_rounds
    return {
        "schema_version": SCHEMA_VERSION,
        "measured": True,
        "method": method,
        "draft_checkpoint": dict(draft),
        "target_model": dict(target),
        "num_speculative_tokens": draft_length,
        "block_size": None,
        "max_supported_k": max(walks),
        "verification_method": "longest_prefix",
        "conditional_accept_rates": _rounded(conditional),
        "marginal_accept_rates": _rounded(marginal),
        "mean_accept_length": round(mean, _DIGITS),
        "mean_accept_length_per_request": round(float(by_answer.mean()), _DIGITS),
        # A chain of gamma tokens begins with the chain of any shorter one.
        "accept_length_model": "chain_analytic",
        "accept_length_by_k": {
            str(length): round(1 + float(accepted.sum() / num.sum()), _DIGITS)
            for length, (num, accepted) in walks.items()
        },
        "acceptance_length_histogram": {
            str(length): round(float(count), _DIGITS)
            for length, count in enumerate(exactly, start=1)
            if count > 0
        },
        "per_category": None,
        "measurement_conditions": dict(conditions),
        "validation": _validation(mean, marginal, exactly),
    }


def synthetic_settings(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with which vLLM accepts drafted tokens at random, at these rates."""
    return {
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_rates": profile["marginal_accept_rates"],
    }


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]


def _validation(mean: float, marginal: Floats, exactly: Floats) -> dict[str, Any]:
    """The mean of the histogram against the mean that the rates imply, and rates that must not increase."""
    lengths = np.arange(1, len(exactly) + 1)
    of_histogram = float((lengths * exactly).sum() / exactly.sum())
    increases: Sequence[int] = np.flatnonzero(np.diff(marginal) > 1e-9).tolist()
    return {
        "mean_consistency": {
            "implied_mean_accept_length": round(mean, _DIGITS),
            "reported_mean_accept_length": round(of_histogram, _DIGITS),
            "abs_delta": round(abs(mean - of_histogram), _DIGITS),
            "tolerance": 0.02,
            "passed": abs(mean - of_histogram) <= 0.02,
        },
        "marginal_monotonicity": {
            "passed": not increases,
            "violations": [
                {"position": at + 1, "value": float(marginal[at + 1]), "previous": float(marginal[at])}
                for at in increases
            ],
        },
    }
