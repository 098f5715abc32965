"""The target's own answers to prompts: shipped with a draft, cached, or written in batches on demand.

They rank a vocabulary and train a draft; nothing here is timed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from bench.assets import cache_dir, sha256_of
from bench.caches import keep, read_kept, say_once
from bench.identity import WEIGHTS, Identity
from bench.models.kernels import best_ids
from bench.models.target import Target, TargetOutput
from bench.text.conversation import Prompt

Answers = dict[str, list[list[int]]]

_ROWS = 32

_MAX_NEW_TOKENS = 192

# What made an answer, besides target and prompt.
_SETTINGS = {"max_new_tokens": _MAX_NEW_TOKENS, "temperature": 0.0}


class AnswerStore:
    """Known answers of one target, by the content of the prompt.

    Args:
        target: identity of the target.
        dtype: dtype of its weights and arithmetic.
        shipped: files of answers that come with the draft; missing ones are passed over. Their dtype does not
            matter: only rounding differs, and whichever tokens it chose are an answer to replay.
        folder: where answers are kept; None: in the cache.
    """

    def __init__(self, target: Identity, dtype: str, *shipped: Path, folder: Path | None = None):
        made_by = target.also(**_SETTINGS)
        self._weights = str(target.parts[WEIGHTS])
        self._folder = (folder or cache_dir() / "answers") / made_by.also(dtype=dtype).digest[:32]
        self._known: Answers = {}
        for path in (
            *(path for path in shipped if path.exists() and _is_of(path, made_by)),
            *sorted(self._folder.glob("*.npz")),
        ):
            for key, answers in (read_kept(path, read_answers) or {}).items():
                self._known.setdefault(key, answers)

    def key(self, prompt: Prompt) -> str:
        """Name of a prompt's answers among those of one identity."""
        return prompt_key(self._weights, prompt)

    def num_known(self, prompts: Sequence[Prompt]) -> int:
        """How many of `prompts` have an answer."""
        return sum(self.key(p) in self._known for p in prompts)

    def lacks(self, prompts: Sequence[Prompt], wanted: int) -> bool:
        """Whether fewer than `wanted` of `prompts` have an answer, as far as there are prompts."""
        return self.num_known(prompts) < min(wanted, len(prompts))

    def known(self, prompt: Prompt) -> list[list[int]]:
        """The answers to one prompt that are known already."""
        return self._known.get(self.key(prompt), [])

    def get(
        self,
        target: Target,
        prompts: Sequence[Prompt],
        wanted: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[list[int]]:
        """All known answers; the target first writes answers until `wanted` prompts have one.

        Args:
            target: writes what is missing, greedily and in batches.
            prompts: in order of preference.
            wanted: prompts that must have an answer, as far as there are prompts.
            progress: called with (prompts answered, prompts to answer) after every batch.
        """
        unknown = [p for p in prompts if self.key(p) not in self._known]
        missing = max(0, min(wanted, len(prompts)) - (len(prompts) - len(unknown)))
        # Prompts of similar length need the least padding.
        todo = sorted(((p, target.encode(p)) for p in unknown[:missing]), key=lambda item: len(item[1]))
        for start in range(0, missing, _ROWS):
            progress(start, missing)
            batch = todo[start : start + _ROWS]
            answers = generate_batch(target, [ids for _, ids in batch], Sampling(_MAX_NEW_TOKENS))
            found = {self.key(p): [answer] for (p, _), answer in zip(batch, answers, strict=True)}
            self._known.update(found)
            self._keep(found)
        return [answer for p in prompts for answer in self.known(p)]

    def _keep(self, found: Answers) -> None:
        name = hashlib.sha256("".join(sorted(found)).encode()).hexdigest()[:16]
        keep(self._folder / f"{name}.npz", lambda file: write_answers(file, found))


def _is_of(shipped: Path, made_by: Identity) -> bool:
    """Whether shipped answers are of this target, by the manifest beside them."""
    try:
        manifest = json.loads((shipped.parent / "manifest.json").read_text("utf-8"))
        recorded = {WEIGHTS: manifest["target_fingerprint"], **manifest["answers_made_by"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    differing = made_by.differences(recorded)
    pinned = manifest.get("answers_sha256", {}).get(shipped.name)
    if not differing and pinned and sha256_of(shipped) != pinned:
        say_once(f"{shipped} does not have the sha256 of the manifest beside it; it is not used")
        return False
    if differing and WEIGHTS not in differing:
        say_once(
            f"the answers in {shipped.parent} were written with other {' and '.join(differing)}; the target "
            "writes its own"
        )
    return not differing


def prompt_key(target_weights: str, prompt: Prompt) -> str:
    """32 hex digits for a prompt put to a target.

    Args:
        target_weights: hash of the target's weights.
        prompt: the prompt.
    """
    tools = [prompt.tools] if prompt.tools else []
    template = [] if prompt.template is None else [{"template": prompt.template}]
    content = json.dumps([target_weights, prompt.as_dicts(), *tools, *template], default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def write_answers(file: BinaryIO, answers: Answers) -> None:
    """Writes answers as three arrays."""
    flat = [(key, tokens) for key, several in answers.items() for tokens in several]
    np.savez_compressed(
        file,
        keys=np.array([key for key, _ in flat], dtype="S32"),
        lengths=np.array([len(tokens) for _, tokens in flat], dtype=np.int32),
        tokens=np.array([t for _, tokens in flat for t in tokens], dtype=np.int32),
    )


def read_answers(path: Path) -> Answers:
    """Reads what `write_answers` wrote."""
    with np.load(path, allow_pickle=False) as file:
        ends = np.cumsum(file["lengths"])
        pieces: Iterable[np.ndarray] = np.split(file["tokens"], ends[:-1])
        answers: Answers = {}
        for key, tokens in zip(file["keys"], pieces, strict=True):
            answers.setdefault(key.decode(), []).append(tokens.tolist())
    return answers


# Rows that have ended leave the batch once they are this share of it.
_COMPACT_AT = 0.2

# Called after every forward pass with the answers' rows that it served `(num_rows,)` and its output
# `(num_rows, num_new_tokens, ...)`. The first pass serves prompts, not answers: one row each.
Observer = Callable[[Tensor, TargetOutput], None]


@dataclass(frozen=True)
class Sampling:
    """How the target answers.

    Attributes:
        max_new_tokens: longest answer.
        temperatures: one answer per prompt and entry; 0 is greedy.
        seed: of the sampled answers.
    """

    max_new_tokens: int
    temperatures: tuple[float, ...] = (0.0,)
    seed: int = 0


@torch.inference_mode()
def generate_batch(
    target: Target,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    observe: Observer | None = None,
) -> list[list[int]]:
    """The target's answers; each includes the end-of-turn token if it ends with one.

    Args:
        target: model and tokenizer.
        prompts: token ids of each prompt; shorter ones are padded on the left.
        sampling: length, temperatures and seed.
        observe: sees every forward pass.

    Returns:
        Token ids of the answers, ordered by prompt and then by temperature.
    """
    copies = len(sampling.temperatures)
    batch = _Batch(target, len(prompts) * copies, sampling)
    ids, mask = _pad_left(prompts, target.device)
    output = target.forward_batch(
        ids, batch.cache, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)
    )
    if observe:
        observe(torch.arange(len(prompts)), output)
    batch.cache.repeat_rows(copies)
    mask = mask.repeat_interleave(copies, dim=0)
    hidden = output.hidden[:, -1].repeat_interleave(copies, dim=0)
    for _ in range(sampling.max_new_tokens - 1):
        mask = batch.append(target.lm_head(hidden), mask)
        if not len(batch.rows):
            return batch.answers
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = mask.sum(-1, keepdim=True) - 1
        output = target.forward_batch(
            batch.last_tokens, batch.cache, attention_mask=mask, position_ids=positions
        )
        if observe:
            observe(batch.rows, output)
        hidden = output.hidden[:, -1]
    batch.append(target.lm_head(hidden), mask)
    return batch.answers


class _Batch:
    """The answers in progress: which rows still run, and their tokens so far."""

    def __init__(self, target: Target, num_answers: int, sampling: Sampling):
        device = target.device
        self.cache = target.new_cache()
        self.stop = target.eos_token_ids()
        self.answers: list[list[int]] = [[] for _ in range(num_answers)]
        self.rows = torch.arange(num_answers, device=device)
        self.alive = torch.ones(num_answers, dtype=torch.bool, device=device)
        self.last_tokens = torch.empty(0, 1, dtype=torch.long, device=device)
        copies = num_answers // len(sampling.temperatures)
        self.temperatures = torch.tensor(sampling.temperatures, device=device).repeat(copies)
        self.generator = torch.Generator(device=device).manual_seed(sampling.seed)

    def append(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Chooses the next token of every row; returns the mask of the rows that stay."""
        tokens = best_ids(logits)
        warm = (self.temperatures > 0).nonzero().flatten()
        if len(warm):
            probs = torch.softmax(logits[warm].float() / self.temperatures[warm, None], dim=-1)
            tokens[warm] = torch.multinomial(probs, 1, generator=self.generator).flatten()
        for index in self.alive.nonzero().flatten().tolist():
            token = int(tokens[index])
            self.answers[int(self.rows[index])].append(token)
            self.alive[index] = token not in self.stop
        self.last_tokens = tokens[:, None]
        if self.alive.float().mean() <= 1 - _COMPACT_AT:
            mask = self._drop_ended(mask)
        return mask

    def _drop_ended(self, mask: Tensor) -> Tensor:
        kept = self.alive.nonzero().flatten()
        if len(kept):
            self.cache.select_rows(kept)
        self.rows, self.alive = self.rows[kept], self.alive[kept]
        self.last_tokens, self.temperatures = self.last_tokens[kept], self.temperatures[kept]
        return mask[kept]


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
