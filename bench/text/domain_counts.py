"""Token counts of one domain: of its own responses, or of responses that the target writes."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bench.assets import cache_dir
from bench.caches import keep, read_kept
from bench.config import DomainSource, Responses, Source, VocabConfig
from bench.errors import DomainError
from bench.identity import Identity
from bench.text import content_id, load_conversations, load_prompts, source_name
from bench.text.conversation import Prompt, Split, take_split
from bench.text.counting import (
    CountSettings,
    LeftOut,
    SideCounts,
    block_counts,
    count_responses,
    with_the_rest,
)
from bench.text.odd_rows import OddRows
from bench.text.scripts import DATA_VERSION
from bench.text.template import template_source
from bench.text.tokenizer import TargetTokenizer
from bench.vocab.blocks import BlockCounts
from bench.vocab.draft_vocab import IntArray

_FORMAT = 4  # format of cached counts; raise it when the counts change

# Writes the target's answers to some of the prompts: (prompts, largest number, collects the prompts that
# cannot be used) -> (prompt, ids) of each.
AnswerWriter = Callable[[Sequence[Prompt], int, OddRows], list[tuple[Prompt, list[int]]]]


@dataclass(frozen=True)
class DomainCounts:
    """The counts of one domain.

    Attributes:
        name: name of the domain.
        sides: counts of both sides of the split.
        responses: who wrote the responses: `dataset` or `target`.
        source_id: identity of the data.
        odd: rows that were set aside, or used in part.
    """

    name: str
    sides: SideCounts
    responses: Responses
    source_id: str
    odd: OddRows


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
        sides, odd = _counted(domain, source_id, target, vocab, num_processes, progress)
        odd.check(domain.name, domain.max_bad_share)
        if sides.num_conversations:
            _check_sides(domain, sides, vocab)
            sides = _with_rows(domain, sides, target)
            return DomainCounts(domain.name, sides, Responses.dataset, source_id, odd)
        if domain.responses is Responses.dataset:
            raise DomainError(
                f"domain {domain.name}: there is no assistant turn; give conversations with responses, or "
                "let the target write them with domain.responses=target"
            )
    sides, odd = _written(domain, target, vocab, write_answers)
    return DomainCounts(domain.name, sides, Responses.target, source_id, odd)


def _check_sides(domain: DomainSource, sides: SideCounts, vocab: VocabConfig) -> None:
    if not sides.ranking.num_conversations:
        many = sides.held_out.num_conversations
        whose = "its only conversation" if many == 1 else f"all {many} conversations"
        raise DomainError(
            f"domain {domain.name}: {whose} with a response fell on the held-out side of the split, so none "
            f"is left to rank the tokens; give more conversations, or another {_split(vocab)}"
        )


def _with_rows(domain: DomainSource, sides: SideCounts, target: TargetTokenizer) -> SideCounts:
    """The counts by rows of the target's LM head, once every counted token is known to have one."""
    size, total = target.vocab_size, sides.ranking.total() + sides.held_out.total()
    missing = size + np.flatnonzero(total[size:])
    if len(missing):
        raise DomainError(
            f"domain {domain.name}: token {target.name_of(int(missing[0]))} was counted "
            f"{total[missing[0]]:,} times, but the target's LM head has only {size:,} rows; use the "
            "tokenizer that belongs to the checkpoint, or leave these responses out"
        )
    return replace(
        sides,
        ranking=sides.ranking.within(size),
        held_out=sides.held_out.within(size),
        languages={name: counts[:, :size] for name, counts in sides.languages.items()},
    )


def _counted(
    domain: DomainSource,
    source_id: str,
    target: TargetTokenizer,
    vocab: VocabConfig,
    num_processes: int | None,
    progress: Callable[[int], None],
) -> tuple[SideCounts, OddRows]:
    template = template_source(domain.template)
    settings = CountSettings(vocab.split_seed, vocab.held_out_share, domain.plain_text, template)
    path = cache_dir() / "counts" / f"{_identity(domain, source_id, target, settings).digest[:32]}.npz"
    kept = read_kept(path, lambda found: _read(found, target.num_ids, source_name(domain)))
    if kept is not None:
        return kept
    odd = OddRows()

    def conversations():
        # Should the fast way turn out to be inexact, everything is read again.
        odd.clear()
        return islice(load_conversations(domain, odd), domain.max_conversations)

    sides = count_responses(conversations, target, settings, num_processes, progress)
    odd.merge(sides.refused)
    keep(path, lambda file: _write(file, sides, odd))
    return sides, odd


def _identity(
    domain: DomainSource, source_id: str, target: TargetTokenizer, settings: CountSettings
) -> Identity:
    """What a count is made of."""
    return target.identity.also(
        format=_FORMAT,
        scripts=DATA_VERSION,
        data=source_id,
        # How a file is read is decided by its name.
        suffixes=Path(domain.path or "").suffixes if domain.source is Source.file else None,
        columns=asdict(domain.columns),
        roles=domain.roles,
        max_conversations=domain.max_conversations,
        # The data's identity has the template.
        **{name: value for name, value in asdict(settings).items() if name != "template"},
    )


def _written(
    domain: DomainSource, target: TargetTokenizer, vocab: VocabConfig, write_answers: AnswerWriter
) -> tuple[SideCounts, OddRows]:
    odd = OddRows()
    prompts = load_prompts(domain, odd)[: domain.max_conversations]
    sides, in_context = [], []
    languages: dict[str, IntArray] = {}
    for split in (Split.RANKING, Split.HELD_OUT):
        chosen = take_split(prompts, split, vocab.split_seed, vocab.held_out_share)
        answers = write_answers(chosen, domain.target_responses, odd)
        num_prompts = len({prompt.prompt_id for prompt, _ in answers})
        grouped = [(prompt.group, ids) for prompt, ids in answers]
        sides.append(block_counts(grouped, target.vocab_size, num_prompts))
        in_context.append(target.scripts.count(ids for _, ids in answers))
        for prompt, ids in answers:
            if prompt.language:
                counts = languages.setdefault(
                    prompt.language, np.zeros((2, target.vocab_size), dtype=np.int64)
                )
                np.add.at(counts[len(sides) - 1], ids, 1)
    odd.check(domain.name, domain.max_bad_share)
    if not sides[0].num_conversations:
        on_side = len(take_split(prompts, Split.RANKING, vocab.split_seed, vocab.held_out_share))
        raise DomainError(_why_no_answer(domain, len(prompts), on_side, vocab))
    ranking, held_out = sides
    languages = with_the_rest(languages, ranking.total(), held_out.total())
    return SideCounts(ranking, held_out, in_context=(in_context[0], in_context[1]), languages=languages), odd


def _why_no_answer(domain: DomainSource, num_prompts: int, num_ranking: int, vocab: VocabConfig) -> str:
    if not num_ranking:
        whose = "its only prompt" if num_prompts == 1 else f"all {num_prompts} prompts"
        return (
            f"domain {domain.name}: {whose} fell on the held-out side of the split, so none is left to rank "
            f"the tokens; give more prompts, or another {_split(vocab)}"
        )
    return (
        f"domain {domain.name}: none of the {num_ranking} prompts that may rank the tokens is at most "
        f"domain.max_prompt_tokens={domain.max_prompt_tokens} tokens long; raise it, or give shorter prompts"
    )


def _split(vocab: VocabConfig) -> str:
    seed, share = vocab.split_seed, vocab.held_out_share
    return f"vocab.split_seed (now {seed}) or vocab.held_out_share (now {share:g})"


def _write(file: BinaryIO, sides: SideCounts, odd: OddRows) -> None:
    notes = {
        "odd": odd.as_dict(),
        "left_out": {name: asdict(lost) for name, lost in sides.left_out.items()},
        "num_silent": sides.num_silent,
        "in_context": [[[*key, n] for key, n in side.items()] for side in sides.in_context],
        "languages": list(sides.languages),
    }
    arrays: dict[str, np.ndarray] = {"notes": np.array(json.dumps(notes))}
    for name, side in (("ranking", sides.ranking), ("held_out", sides.held_out)):
        arrays |= {
            f"{name}_blocks": side.block_ids,
            f"{name}_tokens": side.token_ids,
            f"{name}_counts": side.counts,
            f"{name}_conversations": np.array(side.num_conversations),
        }
    for number, counts in enumerate(sides.languages.values()):
        places = np.flatnonzero(counts)
        arrays |= {f"language_{number}": np.stack([places, counts.ravel()[places]])}
    np.savez(file, allow_pickle=False, **arrays)


def _read(path: Path, vocab_size: int, source: str) -> tuple[SideCounts, OddRows]:
    with np.load(path, allow_pickle=False) as file:
        notes = json.loads(str(file["notes"]))
        ranking, held_out = (
            BlockCounts.from_parts(
                [(file[f"{name}_blocks"], file[f"{name}_tokens"], file[f"{name}_counts"])],
                vocab_size,
                int(file[f"{name}_conversations"]),
            )
            for name in ("ranking", "held_out")
        )
        languages = {}
        for number, name in enumerate(notes["languages"]):
            places, counts = file[f"language_{number}"]
            languages[name] = np.zeros((2, vocab_size), dtype=np.int64)
            languages[name].flat[places] = counts
    ranked, kept = (Counter({(script, token): n for script, token, n in s}) for s in notes["in_context"])
    left_out = {name: LeftOut(**lost) for name, lost in notes["left_out"].items()}
    sides = SideCounts(
        ranking,
        held_out,
        left_out,
        num_silent=notes["num_silent"],
        in_context=(ranked, kept),
        languages=languages,
    )
    return sides, OddRows.from_dict(source, notes["odd"])
