"""The target's own answers to prompts: shipped with a draft, kept in the cache, or written on demand."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from bench.assets import cache_dir
from bench.decoding.batched import Sampling, generate_batch
from bench.domains.prompt import Prompt
from bench.errors import OutputError
from bench.models.target import Target

Answers = dict[str, list[list[int]]]

_ROWS = 32
_MAX_NEW_TOKENS = 192


class AnswerStore:
    """Known answers of one target, by the content of the prompt.

    Args:
        target_fingerprint: identifies the target's weights.
        shipped: file of answers that comes with the draft, if any.
    """

    def __init__(self, target_fingerprint: str, shipped: Path | None = None):
        self._fingerprint = target_fingerprint
        self._folder = cache_dir() / "answers" / target_fingerprint[:16]
        self._known: Answers = {}
        for path in (
            *([shipped] if shipped and shipped.exists() else []),
            *sorted(self._folder.glob("*.npz")),
        ):
            for key, answers in read_answers(path).items():
                self._known.setdefault(key, answers)

    def key(self, prompt: Prompt) -> str:
        """Name of a prompt's answers: its turns and the target decide, nothing else."""
        return prompt_key(self._fingerprint, prompt)

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
        """Answers to every prompt that has some; the target writes them until `wanted` prompts do.

        Args:
            target: writes what is missing, greedily and in batches.
            prompts: in order of preference.
            wanted: prompts that must have an answer, as far as there are prompts.
            progress: told (prompts answered, prompts to answer) after every batch.
        """
        unknown = [p for p in prompts if self.key(p) not in self._known]
        missing = max(0, min(wanted, len(prompts)) - (len(prompts) - len(unknown)))
        todo = unknown[:missing]
        for start in range(0, missing, _ROWS):
            progress(start, missing)
            batch = todo[start : start + _ROWS]
            ids = [target.encode(p.as_dicts()) for p in batch]
            answers = generate_batch(target, ids, Sampling(_MAX_NEW_TOKENS))
            found = {self.key(p): [answer] for p, answer in zip(batch, answers, strict=True)}
            self._known.update(found)
            self._keep(found)
        return [answer for p in prompts for answer in self.known(p)]

    def _keep(self, found: Answers) -> None:
        name = hashlib.sha256("".join(sorted(found)).encode()).hexdigest()[:16]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_answers(self._folder / f"{name}.npz", found)
        except OSError as error:
            raise OutputError(f"cannot keep answers in {self._folder}: {error.strerror}") from error


def prompt_key(target_fingerprint: str, prompt: Prompt) -> str:
    """32 hex digits for a prompt put to a target."""
    content = json.dumps([target_fingerprint, prompt.as_dicts()])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def write_answers(path: Path, answers: Answers) -> None:
    """Writes answers as three arrays, atomically."""
    flat = [(key, tokens) for key, several in answers.items() for tokens in several]
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            keys=np.array([key for key, _ in flat], dtype="S32"),
            lengths=np.array([len(tokens) for _, tokens in flat], dtype=np.int32),
            tokens=np.array([t for _, tokens in flat for t in tokens], dtype=np.int32),
        )
    temporary.replace(path)


def read_answers(path: Path) -> Answers:
    """Reads what `write_answers` wrote."""
    with np.load(path, allow_pickle=False) as file:
        ends = np.cumsum(file["lengths"])
        pieces: Iterable[np.ndarray] = np.split(file["tokens"], ends[:-1])
        answers: Answers = {}
        for key, tokens in zip(file["keys"], pieces, strict=True):
            answers.setdefault(key.decode(), []).append(tokens.tolist())
    return answers
