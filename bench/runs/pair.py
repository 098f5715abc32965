"""A pair ready to run: target, draft, and cached answers of the target."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.config import PairConfig
from bench.config.run import Execution
from bench.cost.config_json import read_config
from bench.decoding.answers import AnswerStore
from bench.decoding.rules import Sampler
from bench.decoding.static import capture_obstacle
from bench.decoding.torch_engine import TorchEngine
from bench.device import Device, default_dtype
from bench.device.graphs import round_execution, shared_capture
from bench.identity import Identity, of_model
from bench.models.checkpoint import load_draft, resolve_pair_draft
from bench.models.draft import Draft, Placement
from bench.models.draft_config import chosen_layers
from bench.models.fused import fused_ops
from bench.models.mtp import OF_TARGET
from bench.models.target import MOST_ERROR, Target, load_target, resolve_target

# Of a draft's folder: answers that rank, and answers to held-out prompts.
ANSWERS_FILE, HELD_OUT_FILE = "answers.npz", "held_out_answers.npz"


@dataclass(frozen=True)
class Pair:
    """A loaded target and draft.

    Attributes:
        name: the name in results.
        target: the target.
        draft: the draft with its largest vocabulary.
        target_config: the target's `config.json`.
        answers: cached answers of the target.
        dtype: dtype of weights and arithmetic of both models.
        target_identity: what the target is made of.
        draft_identity: what the draft is made of.
        target_folder: the target's files.
        draft_folder: the draft's files.
    """

    name: str
    target: Target
    draft: Draft
    target_config: dict[str, Any]
    answers: AnswerStore
    dtype: torch.dtype
    target_identity: Identity
    draft_identity: Identity
    target_folder: Path
    draft_folder: Path


def load_pair(config: PairConfig, device: Device, dtype_name: str) -> Pair:
    """Downloads and loads a pair.

    Raises:
        AssetError: target or draft cannot be downloaded or read.
        CheckpointError: they are not a target and a draft of it.
    """
    dtype = dtype_of(dtype_name, device)
    draft_folder = resolve_pair_draft(config)
    target_folder = resolve_target(config.target, config.target_revision, config.trust_remote_code)
    target = load_target(
        target_folder, device.torch_device, dtype, config.trust_remote_code, config.device_map
    )
    place = Placement.beside(target, **placement_of(config))
    draft = load_draft(draft_folder, place, of_target=config.draft == OF_TARGET)
    target.keep_features(draft.feature_layers)
    identity = of_model(config.target, target_folder)
    return Pair(
        name=config.label,
        target=target,
        draft=draft,
        target_config=read_config(target_folder / "config.json")[1],
        answers=AnswerStore(identity, str(dtype), *shipped_answers(draft_folder)),
        dtype=dtype,
        target_identity=identity,
        draft_identity=of_model(config.draft, draft_folder),
        target_folder=target_folder,
        draft_folder=draft_folder,
    )


def open_engine(
    pair: Pair,
    device: Device,
    max_new_tokens: int,
    seed: int,
    sampler: Sampler | None = None,
    wanted: Execution = Execution.auto,
) -> tuple[TorchEngine, dict[str, Any]]:
    """The engine that decodes a pair, and how it does so, as results name it.

    Args:
        pair: the pair.
        device: it is on.
        max_new_tokens: longest answer.
        seed: of sampling.
        sampler: how the target samples; None decodes greedily.
        wanted: as of `measure.execution`.

    Raises:
        DeviceError: rounds cannot be executed as wanted.
    """
    is_cpu = device.torch_device.type == "cpu"
    obstacle = None if is_cpu else "compiled layers are for CPUs"
    if is_cpu and wanted in (Execution.auto, Execution.compiled):
        obstacle = pair.target.fused_obstacle or pair.draft.fused_obstacle or _wrong_layers(pair.target)
    execution = round_execution(device, wanted, capture_obstacle(pair.target, pair.draft), obstacle)
    capture = shared_capture(device) if execution is Execution.graph else None
    is_compiled = execution is Execution.compiled
    what = (device, pair.target, pair.draft, max_new_tokens, seed, sampler, capture, is_compiled)
    engine = TorchEngine(*what)
    how: dict[str, Any] = engine.facts
    if is_compiled:
        how["compile_s"] = round(fused_ops(pair.dtype).compile_s, 2)
    elif obstacle and is_cpu:
        how["not_compiled"] = obstacle
    return engine, how


def _wrong_layers(target: Target) -> str | None:
    """What a compiler or its cache did wrong; None where compiled layers compute what the layers compute."""
    error = target.fused_error()
    if math.isnan(error):
        return "compiled layers give no numbers"
    return None if error < MOST_ERROR else f"compiled layers are {error:.0%} off the target's own"


def shipped_answers(draft_folder: Path) -> list[Path]:
    """Files of the target's answers that a draft's folder can have."""
    return [draft_folder / name for name in (ANSWERS_FILE, HELD_OUT_FILE)]


def placement_of(config: PairConfig) -> dict[str, Any]:
    """How to read the draft of a pair."""
    return {
        "trust_remote_code": config.trust_remote_code,
        "layer_ids": chosen_layers(config.layer_ids),
        "ignored_keys": tuple(config.ignore_keys),
    }


def dtype_of(name: str, device: Device) -> torch.dtype:
    """The dtype of `dtype=`; `auto` depends on the device."""
    return default_dtype(device) if name == "auto" else getattr(torch, name)
