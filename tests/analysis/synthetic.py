"""SYNTHETIC runs of devices that do not exist: made here from a latency law, for tests only.

A part takes launch_ms + bytes / (efficiency * bandwidth), times noise; what the target accepts is the same on
every device, as it is with greedy decoding in float32.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.acceptance import Intervals
from bench.cost.shape import DraftShape, Pass, total_cost
from bench.records import (
    BaselineRecord,
    DecodeRecord,
    PlanRecord,
    ProbeRecord,
    RankingRecord,
    Record,
    ReplayRecord,
)
from bench.variant import Variant
from tests.synthetic_run import write_run_folder

FULL = 49152
SIZES = (512, 2048, 8192, 24576, FULL)
GAMMAS = (1, 2, 3)
VARIANTS = [
    (FULL, 0, "plain"), (FULL, 2, "full"), (2048, 3, "optimum"), (8192, 2, "paper"), (2048, 2, "lossless")
]  # fmt: skip
DRAFT_CONFIG = Path(__file__).parents[2] / "bench" / "drafts" / "smollm2-135m-eagle3" / "config.json"
WIDTH = 2  # bytes of bfloat16


@dataclass(frozen=True)
class Device:
    """A device that does not exist; rates per second, times in ms.

    `slowdown` multiplies the laps of a part, `noise` is the relative scatter of every prompt's machine and of
    every lap.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    bandwidth: float = 3.35e12
    launch_ms: float = 0.02
    verify_ms: float = 1.5
    power_limit_w: float | None = 700.0
    host: str | None = "alpha"
    uuid: str = "GPU-1"
    driver: str = "580.1"
    noise: float = 0.0
    slowdown: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """What is measured."""

    domains: tuple[str, ...] = ("code",)
    num_prompts: int = 6
    first_prompt: int = 0
    num_tokens: int = 13
    seed: int = 0
    started_at: str = "2026-01-01T00:00:00+00:00"
    pair: str = "synthetic-pair"
    dtype: str = "bfloat16"
    temperature: float = 0.0
    max_new_tokens: int = 64
    draft_fingerprint: str = "d" * 64


def write_run(folder: Path, device: Device | None = None, experiment: Experiment | None = None) -> Path:
    """A finished run of `experiment` on `device`."""
    device, experiment = device or Device(), experiment or Experiment()
    records = _records(device, experiment)
    return write_run_folder(folder, _config(experiment), _environment(device, experiment), records)


def _records(device: Device, experiment: Experiment) -> Iterator[Record]:
    maker = _Maker(device, experiment)
    for domain in experiment.domains:
        yield RankingRecord(domain, list(range(40)), [float(n) for n in range(40, 0, -1)], 1, None)
    for domain in experiment.domains:
        yield PlanRecord(domain, domain, list(VARIANTS))
        for number in range(experiment.first_prompt, experiment.first_prompt + experiment.num_prompts):
            yield from maker.records(domain, number)
    yield BaselineRecord(experiment.domains[0], "p0", experiment.num_tokens, 10.0, 12.0)


class _Maker:
    def __init__(self, device: Device, experiment: Experiment):
        self.device, self.experiment = device, experiment
        self.rng = np.random.default_rng([experiment.seed, 7])
        self.order = 0
        shape = DraftShape.from_config(json.loads(DRAFT_CONFIG.read_text()), "config.json")
        self.cost = {k: shape.cost(Pass(context_length=100, dtype_bytes=WIDTH), k) for k in SIZES}

    def records(self, domain: str, number: int):
        """Replay, probes and decodes of one prompt."""
        device, experiment = self.device, self.experiment
        # The same texts and acceptance on every device.
        text = np.random.default_rng([number, len(domain)])
        places = experiment.num_tokens - 1
        low = np.sort(text.choice([1, 40, 700, 3000, 9000, FULL + 1], (places, max(GAMMAS))), axis=1)
        high = np.full_like(low, FULL + 1)
        prompt, token_ids = f"p{number}", text.integers(0, 40, experiment.num_tokens).tolist()
        for source in self.experiment.domains:
            yield ReplayRecord(domain, prompt, source, token_ids, low.tolist(), high.tolist(), 5.0)
        pace = float(np.exp(device.noise * self.rng.standard_normal()))
        for size in SIZES:
            for gamma in GAMMAS:
                laps = self._laps(size, gamma, 3, pace)
                yield ProbeRecord(domain, prompt, size, gamma, False, self._next(), laps)
        for size, gamma, _ in VARIANTS:
            accepted = Intervals(low, high).accepted_by_round(Variant(size, gamma)) if gamma else []
            if gamma:
                laps = self._laps(size, gamma, len(accepted), pace)
            else:
                laps = {"verify": self._times("verify", device.verify_ms, places, pace)}
            total = sum(map(sum, laps.values()))
            yield DecodeRecord(
                domain=domain,
                prompt_id=prompt,
                vocab_size=size,
                draft_length=gamma,
                order=self._next(),
                num_prompt_tokens=20 + number,
                token_ids=token_ids,
                accepted=accepted,
                decode_ms=total,
                wall_ms=total,
                laps_ms=laps,
            )

    def _laps(self, size: int, gamma: int, rounds: int, pace: float) -> dict[str, list[float]]:
        head, step = self.cost[size]["lm_head"].total_bytes, total_cost(self.cost[size]).total_bytes
        select = self.cost[size]["selection"].total_bytes
        layer_ms = self._ms(step - head - select)
        counts = {
            "draft_prefill": (layer_ms, 1),
            "lm_head": (self._ms(head), gamma * rounds),
            "select": (self._ms(select), gamma * rounds),
            "layer": (layer_ms, (gamma - 1) * rounds),
            "verify": (self.device.verify_ms * (1 + 0.05 * gamma), rounds),
            "other": (0.001, rounds),
            "extend": (layer_ms, rounds - 1),
        }
        return {part: self._times(part, ms, n, pace) for part, (ms, n) in counts.items() if n}

    def _ms(self, num_bytes: float) -> float:
        return self.device.launch_ms + 1e3 * num_bytes / self.device.bandwidth

    def _times(self, part: str, ms: float, count: int, pace: float) -> list[float]:
        scatter = np.exp(self.device.noise * self.rng.standard_normal(count))
        return (ms * pace * self.device.slowdown.get(part, 1.0) * scatter).tolist()

    def _next(self) -> int:
        self.order += 1
        return self.order


def _config(experiment: Experiment) -> dict[str, Any]:
    return {
        "pair": {"name": experiment.pair, "draft": "smollm2-135m-eagle3"},
        "select": {"coverage_weight": 0.5},
        "measure": {
            "bootstrap_samples": 200,
            "seed": experiment.seed,
            "draft_lengths": list(GAMMAS),
            "temperature": experiment.temperature,
            "top_k": None,
            "top_p": None,
            "max_new_tokens": experiment.max_new_tokens,
        },
    }


def _environment(device: Device, experiment: Experiment) -> dict[str, Any]:
    return {
        "started_at": experiment.started_at,
        "pair": experiment.pair,
        "dtype": experiment.dtype,
        "target_fingerprint": "t" * 64,
        "draft_fingerprint": experiment.draft_fingerprint,
        "full_vocab_size": FULL,
        "device_name": device.name,
        "host": device.host,
        "num_threads": 8,
        "packages": {"torch": "2.12.0", "transformers": "5.20.0"},
        "cuda": {
            "driver": device.driver,
            "runtime": "13.0",
            "uuid": device.uuid,
            "power_limit_w": device.power_limit_w,
        },
        "git": {"commit": "0" * 40, "modified": False},
    }
