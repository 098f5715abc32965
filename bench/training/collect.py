"""Collects the training data of the draft: the target's answers, features and final hidden states.

All of it comes from the forward passes that write the answers, so nothing is computed twice. There is one
shard per batch. Existing shards are kept, so collecting resumes where it stopped.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from bench.decoding.answers import Sampling, generate_batch
from bench.errors import AssetError
from bench.identity import Identity
from bench.models.target import Target, TargetOutput
from bench.training.plan import Job, jobs

MAX_NEW_TOKENS = 192

MAX_PROMPT_TOKENS = 384

# Number of prompt tokens that the draft attends to in training.
CONTEXT_TOKENS = 192


# What makes a shard, besides the target and the prompts of its job.
_SETTINGS = {
    "max_new_tokens": MAX_NEW_TOKENS,
    "max_prompt_tokens": MAX_PROMPT_TOKENS,
    "context_tokens": CONTEXT_TOKENS,
}


class _Recorder:
    """Stores features and hidden states of a batch, row by row."""

    def __init__(self, prompt_lengths: list[int], copies: int):
        self.prompt_lengths, self.copies = prompt_lengths, copies
        self.prompt_states: list[Tensor] = []
        self.answer_states: list[list[Tensor]] = [[] for _ in range(len(prompt_lengths) * copies)]

    def __call__(self, rows: Tensor, output: TargetOutput) -> None:
        states = torch.cat([output.features, output.hidden], dim=-1).bfloat16()
        if not self.prompt_states:
            for row, length in enumerate(self.prompt_lengths):
                self.prompt_states.append(states[row, -min(length, CONTEXT_TOKENS) :].clone())
            return
        for index, row in enumerate(rows.tolist()):
            self.answer_states[row].append(states[index].clone())

    def sequence(self, row: int, num_consumed: int) -> Tensor:
        """States `(context + consumed answer tokens, 4H)` of one answer."""
        return torch.cat([self.prompt_states[row // self.copies], *self.answer_states[row][:num_consumed]])


def collect(target: Target, folder: Path, made_by: Identity, num_jobs: int | None = None) -> None:
    """Writes the shards of all jobs (or the first `num_jobs`) that are missing in `folder`.

    Args:
        target: the target that answers.
        folder: folder of the shards.
        made_by: identity of the target. Shards of another target are refused.
        num_jobs: number of batches to collect; None: all.

    Raises:
        AssetError: the folder has shards of another target or of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_origin(folder, made_by.also(**_SETTINGS))
    wanted = list(jobs())[:num_jobs]
    for job in tqdm(wanted, desc="answers", unit="batch"):
        path = folder / f"{job.name}.safetensors"
        if not path.exists():
            _write_shard(target, job, path)


def _check_origin(folder: Path, made_by: Identity) -> None:
    path = folder / "made_by.json"
    if any(folder.glob("*.safetensors")):
        recorded = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if changed := made_by.differences(recorded) or ([] if recorded else ["origin, which is unknown"]):
            raise AssetError(
                f"the shards in {folder} have another {' and '.join(changed)}; choose another --work folder, "
                "or remove them"
            )
    path.write_text(json.dumps(dict(made_by.parts), indent=2) + "\n", "utf-8")


def _write_shard(target: Target, job: Job, path: Path) -> None:
    prompts = [target.encode(p) for p in job.prompts]
    prompts = [_cut(ids) for ids in prompts]
    recorder = _Recorder([len(ids) for ids in prompts], len(job.temperatures))
    seed = int.from_bytes(job.name.encode()[-4:], "big")
    answers = generate_batch(target, prompts, Sampling(MAX_NEW_TOKENS, job.temperatures, seed), recorder)
    tokens, states, lengths = [], [], []
    for row, answer in enumerate(answers):
        context = prompts[row // len(job.temperatures)][-CONTEXT_TOKENS:]
        # The last token was chosen but never an input: it has no state.
        sequence = recorder.sequence(row, len(answer) - 1)
        tokens.append(torch.tensor(context + answer, dtype=torch.int32))
        states.append(sequence)
        lengths.append((len(context), len(answer)))
    meta = {
        "source": job.source,
        "prompt_ids": json.dumps([p.prompt_id for p in job.prompts]),
        "temperatures": json.dumps(job.temperatures),
    }
    tensors = {
        "tokens": torch.cat(tokens),
        "states": torch.cat(states),
        "lengths": torch.tensor(lengths, dtype=torch.int32),
    }
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata=meta)
    temporary.replace(path)


def _cut(ids: list[int]) -> list[int]:
    """Cuts a long prompt: keeps its start (the request) and its end (where the answer begins)."""
    if len(ids) <= MAX_PROMPT_TOKENS:
        return ids
    tail = 32
    return ids[: MAX_PROMPT_TOKENS - tail] + ids[-tail:]
