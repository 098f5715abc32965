"""Collects the training data of the draft: the target's answers, features and final hidden states.

All of it comes from the forward passes that write the answers, so nothing is computed twice. There is one
shard per batch. Existing shards are kept, so collecting resumes where it stopped.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from bench.decoding.answers import Answers, Sampling, generate_batch, prompt_key
from bench.errors import AssetError
from bench.identity import WEIGHTS, Identity
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


# Context, answer, and states of all but the answer's last token.
_Sequence = tuple[list[int], list[int], Tensor]


class _Recorder:
    """Stores features and hidden states of a batch, row by row."""

    def __init__(self, prompt_lengths: list[int], copies: int):
        self.prompt_lengths, self.copies = prompt_lengths, copies
        self.prompt_states: list[Tensor] = []
        self.answer_states: list[list[Tensor]] = [[] for _ in range(len(prompt_lengths) * copies)]

    def __call__(self, rows: Tensor, output: TargetOutput) -> None:
        states = _states(output)
        if not self.prompt_states:
            for row, length in enumerate(self.prompt_lengths):
                self.prompt_states.append(states[row, -min(length, CONTEXT_TOKENS) :].clone())
            return
        for index, row in enumerate(rows.tolist()):
            self.answer_states[row].append(states[index].clone())

    def sequence(self, row: int, num_consumed: int) -> Tensor:
        """States `(context + consumed answer tokens, width)` of one answer."""
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
    _check_origin(folder, made_by.also(**_SETTINGS, features=list(target.feature_layers)))
    wanted = list(jobs())[:num_jobs]
    for job in tqdm(wanted, desc="answers", unit="batch"):
        path = folder / f"{job.name}.safetensors"
        if not path.exists():
            _write_shard(target, job, path)


def restate(target: Target, folder: Path, made_by: Identity, known: Answers, num_jobs: int | None) -> None:
    """Writes the shards of answers that are known already, by reading them: far faster than writing them.

    Args:
        target: as of `collect`.
        folder: as of `collect`.
        made_by: as of `collect`.
        known: answers by `prompt_key`, in the order of a job's temperatures. Jobs without any are left out.
        num_jobs: number of batches; None: all.

    Raises:
        AssetError: as `collect`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_origin(folder, made_by.also(**_SETTINGS, features=list(target.feature_layers)))
    weights = str(made_by.parts[WEIGHTS])
    wanted = [job for job in jobs() if prompt_key(weights, job.prompts[0]) in known][:num_jobs]
    for job in tqdm(wanted, desc="known answers", unit="batch"):
        path = folder / f"{job.name}.safetensors"
        if not path.exists():
            written = [known.get(prompt_key(weights, prompt), []) for prompt in job.prompts]
            _save(job, path, list(_reread(target, job, written)))


@torch.inference_mode()
def _reread(target: Target, job: Job, written: list[list[list[int]]]) -> Iterator[_Sequence]:
    for prompt, answers in zip(job.prompts, written, strict=True):
        ids, cache = _cut(target.encode(prompt)), target.new_cache()
        context = ids[-CONTEXT_TOKENS:]
        before = _states(target.forward(_row(target, ids), cache))[0, -len(context) :]
        for answer in answers:
            cache.rewind(len(ids))
            # The last token was chosen but never an input: it has no state.
            after = (
                _states(target.forward(_row(target, answer[:-1]), cache))[0]
                if len(answer) > 1
                else before[:0]
            )
            yield context, answer, torch.cat([before, after])


def _row(target: Target, ids: list[int]) -> Tensor:
    return torch.tensor([ids], device=target.device)


def _states(output: TargetOutput) -> Tensor:
    """Features and final hidden states side by side; the latter alone where they are the features."""
    hidden, features = output.hidden, output.features
    is_last = features.shape == hidden.shape and torch.equal(features, hidden)
    return (hidden if is_last else torch.cat([features, hidden], dim=-1)).bfloat16()


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
    copies = len(job.temperatures)
    # The last token was chosen but never an input: it has no state.
    found = [
        (prompts[row // copies][-CONTEXT_TOKENS:], answer, recorder.sequence(row, len(answer) - 1))
        for row, answer in enumerate(answers)
    ]
    _save(job, path, found)


def _save(job: Job, path: Path, sequences: list[_Sequence]) -> None:
    tokens = [torch.tensor(context + answer, dtype=torch.int32) for context, answer, _ in sequences]
    lengths = [(len(context), len(answer)) for context, answer, _ in sequences]
    meta = {
        "source": job.source,
        "prompt_ids": json.dumps([p.prompt_id for p in job.prompts]),
        "temperatures": json.dumps(job.temperatures),
    }
    tensors = {
        "tokens": torch.cat(tokens),
        "states": torch.cat([states for _, _, states in sequences]),
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
