"""What is measured: of a domain, and on one of its prompts."""

from dataclasses import dataclass

from bench.measure.variants import Variant, probes_of
from bench.models.eagle3 import DraftHead
from bench.vocab.draft_vocab import IntArray


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
    """

    domain: str
    prompts: list[EncodedPrompt]
    source: str
    orders: dict[str, IntArray]
    paper_size: int
