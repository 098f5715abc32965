"""A pair on one device, ready to be measured: what every kind of measurement shares."""

import random
from dataclasses import dataclass
from functools import cached_property

from bench.decoding.rounds import Timeline, probes_of
from bench.decoding.rules import GreedyRule, Rule, SampledRule, Sampler
from bench.decoding.torch_engine import Decoder
from bench.device import Device
from bench.models.draft import Draft, DraftHead
from bench.models.target import Target
from bench.variant import Variant
from bench.vocab.draft_vocab import IntArray


@dataclass(frozen=True)
class Rig:
    """A pair on one device.

    Attributes:
        device: its clock is read.
        target: the target.
        draft: the draft.
        full_head: the draft's whole LM head.
        max_new_tokens: longest answer.
        seed: of every random order, and of sampling.
        sampler: how the target samples; None decodes greedily.
    """

    device: Device
    target: Target
    draft: Draft
    full_head: DraftHead
    max_new_tokens: int
    seed: int
    sampler: Sampler | None = None

    @cached_property
    def rule(self) -> Rule:
        """How tokens are chosen."""
        return SampledRule(self.sampler, self.target.device) if self.sampler else GreedyRule()

    @cached_property
    def decoder(self) -> Decoder:
        """Plain and speculative loops under that rule."""
        return Decoder(self.target, self.max_new_tokens, self.rule)

    def timeline(self, draft_length: int = 0, max_rounds: int | None = None) -> Timeline:
        """Laps on the device's clock; those of the timeline before it cannot be read any more.

        Args:
            draft_length: gamma of what will be timed; 0 for plain decoding.
            max_rounds: of what will be timed; None decodes to the end.
        """
        # Every round ends with a token at least. It has two laps a drafted token, one between each two, and
        # those of verification, rest and extension; one mark and the draft's prefill come first.
        num_rounds = self.max_new_tokens if max_rounds is None else min(max_rounds, self.max_new_tokens)
        self.device.recycle_marks(num_rounds * (3 * draft_length + 2) + 2)
        return Timeline(self.device.mark)

    def reseed(self, *context: object) -> None:
        """Starts the random numbers of sampling anew, the same for the same context."""
        self.rule.reseed(random.Random(repr((self.seed, *context))).getrandbits(62))


# What is measured: of a domain, and on one of its prompts.


@dataclass(frozen=True)
class EncodedPrompt:
    """A held-out prompt as token ids."""

    prompt_id: str
    token_ids: list[int]


@dataclass(frozen=True)
class Probes:
    """What is probed on a prompt.

    Attributes:
        heads: LM heads by size.
        draft_lengths: gammas.
        rounds: of each probe.
    """

    heads: dict[int, DraftHead]
    draft_lengths: list[int]
    rounds: int

    def variants(self, seed: int, *context: object) -> list[Variant]:
        """In a seeded random order, another one for every `context`."""
        return probes_of(sorted(self.heads), self.draft_lengths, seed, *context)


@dataclass(frozen=True)
class Workload:
    """One domain, ready to be measured.

    Attributes:
        domain: its name.
        prompts: held-out prompts.
        source: which ranking its vocabularies follow.
        orders: of every ranking, the draft's tokens as they enter a vocabulary.
        paper_size: k* of the paper's utility under `source`.
        least_size: tokens that every vocabulary must keep, so that no smaller one is advised.
    """

    domain: str
    prompts: list[EncodedPrompt]
    source: str
    orders: dict[str, IntArray]
    paper_size: int
    least_size: int = 1
