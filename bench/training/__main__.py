"""`python -m bench.training`: collects answers, trains, publishes, evaluates. Resumes where it stopped."""

import argparse
import ctypes
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file

from bench.assets import cache_dir
from bench.config import PairConfig
from bench.decoding.answers import AnswerStore, read_answers
from bench.device import open_device
from bench.errors import BenchError
from bench.identity import of_model
from bench.models.checkpoint import SHIPPED, load_draft
from bench.models.draft import Placement
from bench.models.draft_config import LAST, default_feature_layers
from bench.models.fetching import resolve_model
from bench.models.target import load_target
from bench.runs.pair import load_pair, shipped_answers
from bench.training.collect import collect, restate
from bench.training.data import batches, load_sequences
from bench.training.held_out import copy_held_out, write_held_out
from bench.training.plan import DOMAINS
from bench.training.publish import held_out_acceptance, publish, replayed_acceptance, write_card
from bench.training.sibling import MATRIX_LR, NUM_FITTED, Sibling, SiblingObjective
from bench.training.trainer import Objective, Trainer, TrainSettings, new_eagle3, new_mtp

TARGET = "smollm2-135m-instruct"

DRAFTS = {"eagle3": "smollm2-135m-eagle3", "mtp": "smollm2-135m-mtp", "sibling": "smollm2-135m-sibling"}


def main() -> None:
    """Runs the stages whose results are missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument(
        "--kind", choices=DRAFTS, default="eagle3", help="EAGLE-3 draft, MTP module or decoder LM"
    )
    parser.add_argument("--work", type=Path, help="shards and checkpoint; in the cache unless given")
    parser.add_argument("--out", type=Path, help="folder of the finished draft; that of the shipped one")
    parser.add_argument("--jobs", type=int, help="collect only this many batches of answers")
    parser.add_argument(
        "--answers", type=Path, help="train on these answers of the target, such as a draft's answers.npz"
    )
    parser.add_argument("--steps", type=int, default=TrainSettings.steps, help="optimiser steps")
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16 while training")
    parser.add_argument(
        "--eval-prompts", type=int, default=20, help="held-out prompts per domain for the card"
    )
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="do not train: write only the answers to held-out prompts, for the draft in --out",
    )
    arguments = parser.parse_args()
    work = "training" if arguments.kind == "eagle3" else f"training-{arguments.kind}"
    arguments.work = arguments.work or cache_dir() / work
    arguments.out = arguments.out or SHIPPED / DRAFTS[arguments.kind]
    try:
        if not arguments.held_out:
            _run(arguments)
        if arguments.held_out or not arguments.answers:
            _answer_held_out(arguments)
    except BenchError as error:
        print(f"train-draft: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _run(arguments: argparse.Namespace) -> None:
    _keep_freed_memory()
    torch.manual_seed(0)
    folder = resolve_model(TARGET)
    kind, dtype = arguments.kind, torch.bfloat16 if arguments.autocast else torch.float32
    target = load_target(folder, torch.device("cpu"), dtype)
    num_layers = target.config.num_hidden_layers
    target.keep_features(default_feature_layers(num_layers) if kind == "eagle3" else (LAST,))
    shards, made_by = arguments.work / "shards", of_model(TARGET, folder)
    if arguments.answers:
        restate(target, shards, made_by, read_answers(arguments.answers), arguments.jobs)
    else:
        collect(target, shards, made_by, arguments.jobs)
    weights = {name: t.float() for name, t in load_file(folder / "model.safetensors").items()}
    embedding = weights["model.embed_tokens.weight"]
    head = weights.get("lm_head.weight", embedding)
    settings = TrainSettings(steps=arguments.steps, autocast=arguments.autocast)
    sequences = load_sequences(shards)
    if kind == "sibling":
        settings = replace(settings, depths=1, matrix_lr=MATRIX_LR)
        fitted = islice(batches(sequences, settings.batch_size, settings.seed, 0, head.shape[1]), NUM_FITTED)
        objective: Objective = SiblingObjective(Sibling(folder).begin(weights, fitted), embedding, head)
    else:
        body = new_mtp(target, weights) if kind == "mtp" else new_eagle3(target, weights)
        objective = Objective(body, embedding, head, settings.depths)
    trainer = Trainer(objective, sequences, settings, arguments.work)
    log = trainer.run()
    publish(objective.body, shards, settings, log, TARGET, arguments.out, arguments.answers)
    target = load_target(folder, torch.device("cpu"), torch.float32)
    draft = load_draft(arguments.out, Placement.beside(target))
    target.keep_features(draft.feature_layers)
    domains, length, most = list(DOMAINS.values()), 3, arguments.eval_prompts
    if arguments.answers:
        copy_held_out(arguments.answers.parent, arguments.out)
        store = AnswerStore(made_by, str(torch.float32), *shipped_answers(arguments.out))
        acceptance = replayed_acceptance(target, draft, store, most, length)
    else:
        acceptance = held_out_acceptance(target, draft, domains, most, 128, length)
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
