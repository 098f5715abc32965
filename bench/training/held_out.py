"""The target's answers to held-out prompts of the embedded domains, over which acceptance is replayed.

Nothing is trained on them and they rank nothing. They are shipped so that a first run need not write them.
"""

import json
from collections.abc import Callable
from pathlib import Path

from bench.assets import sha256_of
from bench.config import VocabConfig
from bench.decoding.answers import Answers, AnswerStore, write_answers
from bench.errors import AssetError
from bench.runs.pair import HELD_OUT_FILE, Pair
from bench.runs.workloads import split_held_out
from bench.text import load_prompts
from bench.training.plan import DOMAINS, HELD_OUT_SHARE, SPLIT_SEED

# Prompts of a domain, as far as there are.
NUM_PROMPTS = 64


def copy_held_out(source: Path, out: Path) -> None:
    """Takes over the answers to held-out prompts that another draft of the same target was published with.

    Raises:
        AssetError: it has none, or they are not those of its manifest.
    """
    stated = json.loads((source / "manifest.json").read_text("utf-8")) if source.is_dir() else {}
    path = source / HELD_OUT_FILE
    if not path.exists() or sha256_of(path) != stated.get("answers_sha256", {}).get(HELD_OUT_FILE):
        raise AssetError(f"{path} is not there, or not that of its manifest; fetch it again")
    (out / HELD_OUT_FILE).write_bytes(path.read_bytes())
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    manifest |= {key: stated[key] for key in ("answers_sha256", "held_out_answers")}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def write_held_out(pair: Pair, work: Path, out: Path, progress: Callable[[str, int, int], None]) -> None:
    """Writes the answers into the draft's folder, and their hash and numbers into its manifest.

    Args:
        pair: the target and its draft.
        work: keeps every batch, so that a second call continues.
        out: the draft's folder.
        progress: called with (domain, prompts answered, prompts to answer) before every batch.
    """
    store = AnswerStore(pair.target_identity, str(pair.dtype), folder=work / "held_out_answers")
    vocab = VocabConfig([], split_seed=SPLIT_SEED, held_out_share=HELD_OUT_SHARE)
    answers: Answers = {}
    counts: dict[str, dict[str, int]] = {}
    for name, domain in DOMAINS.items():
        prompts = load_prompts(domain)
        measured, further = split_held_out(pair, domain, prompts, vocab, NUM_PROMPTS, NUM_PROMPTS)
        held_out = [prompt for prompt, _ in (*measured, *further)]

        def show(done: int, total: int, name: str = name) -> None:
            progress(name, done, total)

        store.get(pair.target, held_out, len(held_out), show)
        found = {store.key(prompt): store.known(prompt) for prompt in held_out}
        answers |= found
        num_tokens = sum(len(tokens) for several in found.values() for tokens in several)
        counts[name] = {"answers": len(found), "tokens": num_tokens}
    path = out / HELD_OUT_FILE
    with path.open("wb") as file:
        write_answers(file, answers)
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    manifest["answers_sha256"] = {HELD_OUT_FILE: sha256_of(path)}
    manifest["held_out_answers"] = counts
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
