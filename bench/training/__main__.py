"""`python -m bench.training`: collects answers, trains, publishes, evaluates. Resumes where it stopped."""

import argparse
import ctypes
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from bench.assets import cache_dir
from bench.config import PairConfig
from bench.device import open_device
from bench.errors import BenchError
from bench.identity import of_model
from bench.models.checkpoint import SHIPPED, load_draft
from bench.models.draft import Placement
from bench.models.draft_config import default_feature_layers
from bench.models.eagle_body import EagleBody
from bench.models.fetching import resolve_model
from bench.models.target import load_target
from bench.runs.pair import load_pair
from bench.training.collect import collect
from bench.training.data import load_sequences
from bench.training.held_out import write_held_out
from bench.training.plan import DOMAINS
from bench.training.publish import held_out_acceptance, publish, write_card
from bench.training.trainer import Trainer, TrainSettings, draft_config, init_from_last_layer

TARGET = "smollm2-135m-instruct"

DRAFT = "smollm2-135m-eagle3"


def main() -> None:
    """Runs the stages whose results are missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--work", type=Path, default=cache_dir() / "training", help="shards and checkpoint")
    parser.add_argument("--out", type=Path, default=SHIPPED / DRAFT, help="folder of the finished draft")
    parser.add_argument("--jobs", type=int, help="collect only this many batches of answers")
    parser.add_argument("--steps", type=int, default=TrainSettings.steps, help="optimiser steps")
    parser.add_argument(
        "--eval-prompts", type=int, default=20, help="held-out prompts per domain for the card"
    )
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="do not train: write only the answers to held-out prompts, for the draft in --out",
    )
    arguments = parser.parse_args()
    try:
        if not arguments.held_out:
            _run(arguments)
        _answer_held_out(arguments)
    except BenchError as error:
        print(f"train-draft: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _run(arguments: argparse.Namespace) -> None:
    _keep_freed_memory()
    torch.manual_seed(0)
    folder = resolve_model(TARGET)
    target = load_target(folder, torch.device("cpu"), torch.float32)
    target.keep_features(default_feature_layers(target.config.num_hidden_layers))
    shards = arguments.work / "shards"
    collect(target, shards, of_model(TARGET, folder), arguments.jobs)
    weights = {name: t.float() for name, t in load_file(folder / "model.safetensors").items()}
    body = EagleBody(draft_config(target))
    init_from_last_layer(body, weights, target.config.num_hidden_layers)
    settings = TrainSettings(steps=arguments.steps)
    embedding = weights["model.embed_tokens.weight"]
    trainer = Trainer(
        body,
        embedding,
        weights.get("lm_head.weight", embedding),
        load_sequences(shards),
        settings,
        arguments.work,
    )
    log = trainer.run()
    publish(body, shards, settings, log, TARGET, arguments.out)
    draft = load_draft(arguments.out, Placement.beside(target))
    domains, length = list(DOMAINS.values()), 3
    acceptance = held_out_acceptance(target, draft, domains, arguments.eval_prompts, 128, length)
    write_card(arguments.out, acceptance, length)


def _answer_held_out(arguments: argparse.Namespace) -> None:
    pair = load_pair(PairConfig(None, TARGET, str(arguments.out)), open_device("cpu"), "bfloat16")

    def show(domain: str, done: int, total: int) -> None:
        print(f"{domain}: {done} of {total} held-out prompts answered", flush=True)

    write_held_out(pair, arguments.work, arguments.out, show)


def _keep_freed_memory() -> None:
    """Tells glibc to reuse large blocks: giving them back at every step costs a third of the time."""
    m_trim_threshold, m_mmap_max = -1, -4
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
    except OSError:
        return  # another libc: only slower


if __name__ == "__main__":
    main()
