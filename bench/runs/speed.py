"""How fast this package's loop is on a device, beside what bounds it: a part of `task=selfcheck`.

A plain loop that is slow makes speculation look good. So it is compared with `transformers.generate`, and its
steps with their matrix products alone: the same layers on the same inputs in the same order.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from bench.config.run import Execution
from bench.decoding.engine import Part, PartKey
from bench.decoding.parts import draft_step
from bench.device import Device
from bench.device.graphs import execute_as
from bench.measure.campaign import time_beside_reference
from bench.measure.workload import EncodedPrompt
from bench.models.kernels import PackedLinear
from bench.runs.pair import Pair, open_engine
from bench.stats.estimates import Estimate, Floats, median_ratio
from bench.variant import VERIFY

_VOCAB_SIZE, _NUM_TOKENS, _NUM_REPEATS = 2048, 64, 2

_LEAST_SPEEDUP, _LEAST_SHARE, _MOST_OUTSIDE = 1.25, 0.80, 0.25

PLAIN, DRAFT, _MATRICES = "plain step", "draft step", "matrix products of a "


@dataclass(frozen=True)
class Speed:
    """One comparison of the loop with what bounds it.

    Attributes:
        name: what is compared.
        dtype: of weights and arithmetic.
        ratio: what was found.
        goal: in words.
        is_met: whether `ratio` meets it.
        finding: the ratio, and what it is made of.
        num_pairs: number of pairs of the ratio.
    """

    name: str
    dtype: str
    ratio: Estimate
    goal: str
    is_met: bool
    finding: str
    num_pairs: int


class Steps:
    """Steps of a pair's loop, and their matrix products alone.

    Args:
        device: that they run on.
        pair: the pair.
        prompts: at the end of the first, steps are timed; all are decoded.
        seed: of every random order.

    Attributes:
        calls: by name; executed as rounds are.
        dtype: of weights and arithmetic.
        vocab_size: k of the draft step.
    """

    def __init__(self, device: Device, pair: Pair, prompts: Sequence[EncodedPrompt], seed: int):
        self._engine = engine = open_engine(pair, device, _NUM_TOKENS, seed)[0]
        self._prompts, self._seed = prompts, seed
        self.dtype = str(pair.dtype).removeprefix("torch.")
        self.vocab_size = size = min(_VOCAB_SIZE, engine.full_size)
        prepared = engine.prepare(prompts[0].token_ids)
        head = pair.draft.head_of_size(size)
        plain = engine.parts(prepared, [], [1])[PartKey(VERIFY, num_tokens=1)]
        steps: dict[str, Part] = {PLAIN: plain, DRAFT: draft_step(pair.draft, head, prepared)}
        steps |= {f"{_MATRICES}{name}": matrices_of(step) for name, step in steps.items()}
        execution = Execution.graph if engine.execution is Execution.graph else Execution.eager
        self.calls = {name: execute_as(device, step, execution) for name, step in steps.items()}

    def speeds(self, times: Mapping[str, Floats]) -> list[Speed]:
        """All comparisons.

        Args:
            times: of `calls`, `(n,)` each, in ms.
        """
        coin = random.Random(self._seed)
        decodes = [time_beside_reference(self._engine, p, _NUM_REPEATS, coin)[1] for p in self._prompts]
        generate, plain = np.concatenate(decodes).T
        speedup = median_ratio(generate, plain)
        found = f"{speedup.value:.2f}x [{speedup.ci_low:.2f}, {speedup.ci_high:.2f}], "
        found += f"{_NUM_TOKENS} tokens in {np.median(plain):.0f} ms, prefill included"
        share, outside = self._share(times, PLAIN), self._share(times, DRAFT)
        outside = Estimate(1 - outside.value, 1 - outside.ci_high, 1 - outside.ci_low)
        return [
            Speed(
                "plain decoding over transformers.generate, same weights",
                self.dtype,
                speedup,
                f"at least {_LEAST_SPEEDUP}x",
                speedup.value >= _LEAST_SPEEDUP,
                found,
                len(plain),
            ),
            Speed(
                f"{PLAIN}: share of its matrix products",
                self.dtype,
                share,
                f"at least {_LEAST_SHARE:.0%}",
                share.value >= _LEAST_SHARE,
                _shown(share, times, PLAIN),
                len(times[PLAIN]),
            ),
            Speed(
                f"{DRAFT}, k = {self.vocab_size:,}: share outside its matrix products",
                self.dtype,
                outside,
                f"at most {_MOST_OUTSIDE:.0%}",
                outside.value <= _MOST_OUTSIDE,
                _shown(outside, times, DRAFT),
                len(times[DRAFT]),
            ),
        ]

    @staticmethod
    def _share(times: Mapping[str, Floats], step: str) -> Estimate:
        return median_ratio(times[f"{_MATRICES}{step}"], times[step])


def matrices_of(call: Part) -> Callable[[], None]:
    """The linear layers of a call alone, on the inputs that they had in it, in the same order."""
    found: list[tuple[nn.Module, torch.Tensor]] = []

    def keep(module: nn.Module, given: tuple, _output: object) -> None:
        if isinstance(module, nn.Linear | PackedLinear):
            # Layers may write their next input to the same memory.
            found.append((module, given[0].clone()))

    hook = register_module_forward_hook(keep)
    try:
        call()
    finally:
        hook.remove()

    @torch.inference_mode()
    def alone() -> None:
        for module, x in found:
            module(x)

    return alone


def _shown(share: Estimate, times: Mapping[str, Floats], step: str) -> str:
    matrices, whole = (float(np.median(times[name])) for name in (f"{_MATRICES}{step}", step))
    return (
        f"{share.value:.0%} [{share.ci_low:.0%}, {share.ci_high:.0%}]: {matrices:.3g} of {whole:.3g} ms are "
        "matrix products"
    )
