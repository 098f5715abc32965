"""Drafts and devices whose latency law is chosen by hand."""

from collections.abc import Callable

import numpy as np
from scipy.stats import gamma

from bench.cost.hardware import DeviceLimits, HardwareSpec
from bench.cost.shape import DraftShape
from bench.fit.series import DRAFT_STEP, LatencySeries, Work, draft_work

SIZES = np.array([512, 1024, 2048, 3072, 4096, 6144, 8192, 16384, 32768, 49152])
CONTEXT = 200


def smollm2_draft() -> DraftShape:
    values = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    }
    return DraftShape.from_config(values, "config.json")


def decoder_lm(hidden: int = 576, layers: int = 30) -> DraftShape:
    values = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 1536,
        "num_hidden_layers": layers,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    }
    return DraftShape.from_config(values, "config.json")


def device(
    memory: float = 1e11, peak: float = 1e12, cache: int | None = None, name: str = "X1"
) -> HardwareSpec:
    return HardwareSpec(name, "by hand", name, {"bfloat16": peak}, memory, cache, None)


def limits(memory: float = 1e11, peak: float = 1e12, cache: int | None = None) -> DeviceLimits:
    return device(memory, peak, cache).limits("bfloat16")


def step_work(sizes: np.ndarray = SIZES, component: str = DRAFT_STEP) -> Work:
    return draft_work(smollm2_draft(), component, sizes, CONTEXT)


def series(
    law_ms: Callable[[Work], np.ndarray],
    noise: float = 0.0,
    shape_noise: float = 0.0,
    num_samples: int = 25,
    seed: int = 0,
    work: Work | None = None,
) -> LatencySeries:
    """Samples with skewed noise whose median is the law, and a fixed error of every size."""
    rng = np.random.default_rng(seed)
    work = step_work() if work is None else work
    centres = law_ms(work) * np.exp(shape_noise * rng.standard_normal(len(work)))
    samples = [centre * np.exp(noise * _skewed(rng, num_samples)) for centre in centres]
    return LatencySeries(DRAFT_STEP, work, samples)


def blocked_series(
    law_ms: Callable[[Work], np.ndarray],
    drift: float,
    num_blocks: int = 24,
    apart: float = 0.0,
    noise: float = 0.03,
    laps: int = 15,
    seed: int = 0,
    work: Work | None = None,
) -> LatencySeries:
    """Samples in blocks: a block shifts all sizes by one draw of `drift`, each size by one of `apart`."""
    rng = np.random.default_rng(seed)
    work = step_work() if work is None else work
    shared = drift * rng.standard_normal((num_blocks, 1))
    shifts = shared + apart * rng.standard_normal((num_blocks, len(work)))
    samples = [
        np.concatenate([centre * np.exp(shift + noise * _skewed(rng, laps)) for shift in column])
        for centre, column in zip(law_ms(work), shifts.T, strict=True)
    ]
    groups = [np.repeat(np.arange(num_blocks), laps)] * len(work)
    return LatencySeries(DRAFT_STEP, work, samples, groups)


def _skewed(rng: np.random.Generator, count: int) -> np.ndarray:
    """Median 0, scale 1, a short tail below and a long one above, as latencies have."""
    return (rng.gamma(3.0, size=count) - gamma.median(3.0)) / np.sqrt(3.0)


def bytes_law(t0_ms: float = 0.3, bytes_per_s: float = 2e10) -> Callable[[Work], np.ndarray]:
    return lambda work: t0_ms + 1e3 * work.total_bytes / bytes_per_s


def flops_law(t0_ms: float = 0.3, flops_per_s: float = 2e10) -> Callable[[Work], np.ndarray]:
    return lambda work: t0_ms + 1e3 * work.flops / flops_per_s
