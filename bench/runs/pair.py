"""A pair ready to run: target, draft, and cached answers of the target."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.config import PairConfig
from bench.cost.config_json import read_config
from bench.decoding.answers import AnswerStore
from bench.device import Device, default_dtype
from bench.identity import Identity, of_model
from bench.models.checkpoint import load_draft, resolve_pair_draft
from bench.models.draft import Draft, Placement
from bench.models.draft_config import chosen_layers
from bench.models.mtp import OF_TARGET
from bench.models.target import Target, load_target, resolve_target

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
