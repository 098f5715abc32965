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
from bench.models.target import Target, TargetOutput
from bench.training.plan import Job, jobs

MAX_NEW_TOKENS = 192

MAX_PROMPT_TOKENS = 384

# Number of prompt tokens that the draft attends to in training.
CONTEXT_TOKENS = 192


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


def collect(target: Target, folder: Path, num_jobs: int | None = None) -> None:
    """Writes the missing shards of all jobs (or of the first `num_jobs`) to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(jobs())[:num_jobs]
    for job in tqdm(wanted, desc="answers", unit="batch"):
        path = folder / f"{job.name}.safetensors"
        if not path.exists():
            _write_shard(target, job, path)


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
