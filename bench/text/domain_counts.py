"""Token counts of one domain: of its own responses, or of responses that the target writes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from bench.assets import cache_dir
from bench.config import DomainSource, Responses, VocabConfig
from bench.errors import DomainError, OutputError
from bench.text import content_id, load_conversations, load_prompts
from bench.text.conversation import Prompt, Split, take_split
from bench.text.counting import CountSettings, SideCounts, block_counts, count_responses
from bench.text.tokenizer import TargetTokenizer
from bench.vocab.blocks import BlockCounts

_FORMAT = 2  # format of cached counts; raise it when the counts change

# Writes the target's answers to some of the prompts: (prompts, largest number) -> (prompt, ids) of each.
AnswerWriter = Callable[[Sequence[Prompt], int], list[tuple[Prompt, list[int]]]]


@dataclass(frozen=True)
class DomainCounts:
    """The counts of one domain.

    Attributes:
        name: name of the domain.
        sides: counts of both sides of the split.
        responses: who wrote the responses: `dataset` or `target`.
        source_id: identity of the data.
    """

    name: str
    sides: SideCounts
    responses: Responses
    source_id: str


def count_domain(
    domain: DomainSource,
    target: TargetTokenizer,
    vocab: VocabConfig,
    write_answers: AnswerWriter,
    num_processes: int | None,
    progress: Callable[[int], None],
) -> DomainCounts:
    """Counts the responses of a domain. Counts of the same data come from the cache.

    Raises:
        DomainError: there is no assistant response and the target may not write any, or the data cannot be
            read.
    """
    source_id = content_id(domain)
    if domain.responses is not Responses.target:
        sides = _counted(domain, source_id, target, vocab, num_processes, progress)
        if sides.num_conversations:
            return DomainCounts(domain.name, sides, Responses.dataset, source_id)
        if domain.responses is Responses.dataset:
            raise DomainError(
                f"domain {domain.name}: there is no assistant turn; give conversations with responses, or "
                "let the target write them with domain.responses=target"
            )
    sides = _written(domain, target, vocab, write_answers)
    return DomainCounts(domain.name, sides, Responses.target, source_id)


def _counted(
    domain: DomainSource,
    source_id: str,
    target: TargetTokenizer,
    vocab: VocabConfig,
    num_processes: int | None,
    progress: Callable[[int], None],
) -> SideCounts:
    settings = CountSettings(vocab.split_seed, vocab.held_out_share, domain.plain_text)
    key = json.dumps(
        [
            _FORMAT,
            source_id,
            target.fingerprint,
            asdict(settings),
            asdict(domain.columns),
            domain.max_conversations,
        ]
    )
    path = cache_dir() / "counts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    if path.exists():
        return _read(path, target.vocab_size)

    def conversations():
        return islice(load_conversations(domain), domain.max_conversations)

    sides = count_responses(conversations, target, settings, num_processes, progress)
    _write(path, sides)
    return sides


def _written(
    domain: DomainSource, target: TargetTokenizer, vocab: VocabConfig, write_answers: AnswerWriter
) -> SideCounts:
    prompts = load_prompts(domain)[: domain.max_conversations]
    sides = []
    for split in (Split.RANKING, Split.HELD_OUT):
        chosen = take_split(prompts, split, vocab.split_seed, vocab.held_out_share)
        answers = write_answers(chosen, domain.target_responses)
        num_prompts = len({prompt.prompt_id for prompt, _ in answers})
        grouped = [(prompt.group, ids) for prompt, ids in answers]
        sides.append(block_counts(grouped, target.vocab_size, num_prompts))
    if not sides[0].num_conversations:
        raise DomainError(
            f"domain {domain.name}: no prompt for the target to answer; give more prompts, or raise "
            f"domain.max_prompt_tokens={domain.max_prompt_tokens}"
        )
    return SideCounts(*sides)


def _write(path: Path, sides: SideCounts) -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, side in (("ranking", sides.ranking), ("held_out", sides.held_out)):
        arrays |= {
            f"{name}_blocks": side.block_ids,
            f"{name}_tokens": side.token_ids,
            f"{name}_counts": side.counts,
            f"{name}_conversations": np.array(side.num_conversations),
        }
    temporary = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write token counts to {path.parent}: {error.strerror}") from error


def _read(path: Path, vocab_size: int) -> SideCounts:
    with np.load(path, allow_pickle=False) as file:
        ranking, held_out = (
            BlockCounts.from_parts(
                [(file[f"{name}_blocks"], file[f"{name}_tokens"], file[f"{name}_counts"])],
                vocab_size,
                int(file[f"{name}_conversations"]),
            )
            for name in ("ranking", "held_out")
        )
    return SideCounts(ranking, held_out)
