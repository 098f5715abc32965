"""Rotary embedding (RoFormer, arXiv 2104.09864) as a draft's configuration asks for it. Imports no torch.

`rope_scaling` with `rope_theta` is the older way to say it, `rope_parameters` the newer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.vocab.draft_vocab import Floats

# Settings that each kind of scaling cannot do without.
_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "dynamic": (),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}

# Settings that are honoured, those of text-only position ids (all of mrope's rows are the same) among them.
_KNOWN = {
    *("type", "rope_type", "rope_theta", "factor", "original_max_position_embeddings"),
    *("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    *("attention_factor", "truncate", "alpha", "max_trained_positions", "partial_rotary_factor"),
    *("mrope_section", "mrope_interleaved", "xdrope_section"),
}

ROPE_TYPES = tuple(sorted(_NEEDED))


@dataclass(frozen=True)
class Rope:
    """A rotary embedding.

    Attributes:
        theta: base of the frequencies.
        kind: of scaling, one of `ROPE_TYPES`.
        settings: of the scaling, by name.
    """

    theta: float = 10000.0
    kind: str = "default"
    settings: tuple[tuple[str, float], ...] = ()

    def frequencies(self, head_dim: int, max_position_embeddings: int) -> tuple[Floats, float]:
        """Angles per position `(head_dim / 2,)`, and the factor on cos and sin.

        Up to `max_position_embeddings` dynamic scaling changes nothing, as in vLLM, unless `alpha` or
        `max_trained_positions` says more.
        """
        settings = dict(self.settings)
        theta, factor = self.theta, settings.get("factor", 1.0)
        if self.kind == "dynamic":
            theta *= _dynamic_stretch(settings, max_position_embeddings) ** (head_dim / (head_dim - 2))
        plain = theta ** (-np.arange(0, head_dim, 2) / head_dim)
        if self.kind == "linear":
            return plain / factor, 1.0
        if self.kind == "llama3":
            return _llama3(plain, settings), 1.0
        if self.kind == "yarn":
            return _yarn(plain, settings, head_dim, self.theta), _yarn_attention(settings)
        return plain, 1.0


def rope_of(values: Mapping[str, Any]) -> Rope:
    """The rotary embedding of a configuration that `rope_problem` has nothing against."""
    blocks = (values.get("rope_scaling"), values.get("rope_parameters"))
    # A draft that is trimmed, and not run, may say anything.
    parameters = {name: v for block in blocks if isinstance(block, Mapping) for name, v in block.items()}
    kind = _kind(parameters)
    theta: Any = parameters.get("rope_theta", values.get("rope_theta"))
    theta = float(theta) if is_positive_number(theta) else 10000.0
    names = sorted(name for name, value in parameters.items() if isinstance(value, int | float))
    settings = tuple((name, float(parameters[name])) for name in names if name != "rope_theta")
    return Rope(theta, kind, settings if kind != "default" else ())


def is_positive_number(value: Any) -> bool:
    """Whether a value of a configuration is a finite number above 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


def rope_problem(parameters: Any) -> str | None:
    """What is wrong with a `rope_scaling` or `rope_parameters`; None if nothing is."""
    if not isinstance(parameters, Mapping):
        return "it must be a block of settings"
    kind = _kind(parameters)
    if kind not in _NEEDED:
        return f"the type {kind} is none of {', '.join(ROPE_TYPES)} and mrope"
    missing = [name for name in _NEEDED[kind] if not is_positive_number(parameters.get(name))]
    if missing:
        return f"{kind} needs {' and '.join(missing)}, a number above 0"
    for name in ("rope_theta", "factor", "alpha", "max_trained_positions"):
        if parameters.get(name) is not None and not is_positive_number(parameters[name]):
            return f"{name}={parameters[name]!r} is no number above 0"
    if kind == "default" and parameters.get("factor") not in (None, 1):
        return "a factor needs a rope_type that says what it does"
    if kind == "dynamic" and not {"alpha", "factor"} & parameters.keys():
        return "dynamic needs alpha or factor"
    unknown = sorted(name for name, value in parameters.items() if value is not None and name not in _KNOWN)
    if unknown:
        return f"the setting {unknown[0]} is not known"
    if parameters.get("partial_rotary_factor") not in (None, 1, 1.0):
        return "partial_rotary_factor other than 1 is not supported"
    return None


def _kind(parameters: Mapping[str, Any]) -> str:
    kind = str(parameters.get("rope_type") or parameters.get("type") or "default")
    # Of text, all three rows of mrope's positions are the same, and turn as one.
    return "default" if kind == "mrope" else kind


def _dynamic_stretch(settings: Mapping[str, float], max_position_embeddings: int) -> float:
    if "alpha" in settings:
        return settings["alpha"]
    trained = settings.get("max_trained_positions", max_position_embeddings)
    factor = settings["factor"]
    return factor * max_position_embeddings / trained - (factor - 1)


def _llama3(plain: Floats, settings: Mapping[str, float]) -> Floats:
    """Long waves are stretched, short ones kept, those between blended (Llama 3.1)."""
    original = settings["original_max_position_embeddings"]
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    turns = original * plain / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1) if high != low else (turns > low).astype(float)
    return plain * (share + (1 - share) / settings["factor"])


def _yarn(plain: Floats, settings: Mapping[str, float], head_dim: int, theta: float) -> Floats:
    """YaRN (arXiv 2309.00071): dimensions that turn often keep their frequency, others are stretched."""
    original = settings["original_max_position_embeddings"]

    def dimension(num_turns: float) -> float:
        return head_dim * math.log(original / (num_turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(settings.get("beta_fast", 32.0)), dimension(settings.get("beta_slow", 1.0))
    if settings.get("truncate", 1.0):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 0.001), 0, 1)
    return plain * ((1 - ramp) + ramp / settings["factor"])


def _yarn_attention(settings: Mapping[str, float]) -> float:
    if "attention_factor" in settings:
        return settings["attention_factor"]
    factor = settings["factor"]
    if settings.get("mscale") and settings.get("mscale_all_dim"):
        return magnitude(factor, settings["mscale"]) / magnitude(factor, settings["mscale_all_dim"])
    return magnitude(factor, 1.0)


def magnitude(factor: float, scale: float) -> float:
    """What YaRN multiplies attention by in a context that is stretched by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
