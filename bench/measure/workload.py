"""What is measured: a domain with its held-out prompts, and how each of them is probed."""

from dataclasses import dataclass, field

from bench.decoding.rounds import probes_of, shuffled
from bench.records import ProbeRecord
from bench.records.kinds import Case
from bench.variant import Variant
from bench.vocab.draft_vocab import IntArray

PROBE = ProbeRecord.kind

# Every speedup is over plain decoding, so its steps are timed more often than those of any one size.
_PLAIN_PROBES = 4


@dataclass(frozen=True)
class EncodedPrompt:
    """A held-out prompt as token ids."""

    prompt_id: str
    token_ids: list[int]


@dataclass(frozen=True)
class AnsweredPrompt(EncodedPrompt):
    """A held-out prompt and the target's greedy answer, which was known before the run."""

    answer_ids: list[int]


@dataclass(frozen=True)
class Step:
    """One measurement of a prompt.

    Attributes:
        kind: `probe` or `check`, a few rounds, or `decode`, to the end.
        variant: how to decode.
    """

    kind: str
    variant: Variant

    def case(self, domain: str, prompt: EncodedPrompt) -> Case:
        """Of its record."""
        return (self.kind, domain, prompt.prompt_id, *self.variant.key)


@dataclass(frozen=True)
class Probes:
    """What is probed on a prompt.

    Attributes:
        sizes: vocabulary sizes, ascending, the full one among them.
        draft_lengths: gammas, ascending.
        rounds: of each probe.
    """

    sizes: list[int]
    draft_lengths: list[int]
    rounds: int

    def steps(self, seed: int, *context: object) -> list[Step]:
        """All steps, plain decoding included, in a seeded random order that differs for every `context`."""
        variants = probes_of(self.sizes, self.draft_lengths, seed, *context)
        plain = [Variant(self.sizes[-1], 0)] * _PLAIN_PROBES
        return [Step(PROBE, variant) for variant in shuffled([*variants, *plain], seed, *context)]


@dataclass(frozen=True)
class Workload:
    """One domain, ready to be measured.

    Attributes:
        domain: its name.
        prompts: held-out prompts that are replayed, probed and decoded.
        source: which ranking its vocabularies follow.
        orders: for every ranking, the draft's tokens in the order in which they enter a vocabulary.
        paper_size: k* of the paper's utility under `source`.
        least_size: tokens that every vocabulary must keep, so that no smaller one is advised.
        id_prefix_size: size of the vocabulary that needs no text (`bench.vocab.ranking`); its order is then
            among `orders`.
        published_size: likewise, of the list of tokens that somebody published.
        answered: further held-out prompts, of which acceptance is replayed over known answers.
        probed: those of `answered` that are probed too.
    """

    domain: str
    prompts: list[EncodedPrompt]
    source: str
    orders: dict[str, IntArray]
    paper_size: int
    least_size: int = 1
    answered: list[AnsweredPrompt] = field(default_factory=list)
    probed: list[AnsweredPrompt] = field(default_factory=list)
    id_prefix_size: int | None = None
    published_size: int | None = None

    @property
    def order(self) -> IntArray:
        """That of its own vocabularies."""
        return self.orders[self.source]
