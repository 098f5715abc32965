"""The interface of every engine; measurements decode through nothing else.

An engine holds a target and a draft. It gets the order in which tokens enter the draft's vocabulary, and then
decodes prompts in any `Variant` of it. A new engine is one file with a class that implements `Engine`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.acceptance import Intervals, Ratios
from bench.variant import Variant
from bench.vocab.draft_vocab import IntArray

# A prompt that an engine has read; opaque outside of it.
Prepared = Any

Part = Callable[[], object]


class Clock(Protocol):
    """What an engine asks of a device to time its work; see `bench.device.Device`."""

    asynchronous: bool

    def mark(self) -> Any:
        """The point where work queued so far ends."""

    def recycle_marks(self, num_marks: int = 0) -> None:
        """Makes room for so many marks; those made before cannot be read any more."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Time between two marks, once the device has passed both."""

    def synchronize(self) -> None:
        """Waits until all queued work is done."""


@dataclass(frozen=True)
class Decoded:
    """One answer, decoded after its prompt was read.

    Attributes:
        token_ids: the answer from its first token, which the prefill gives, to its end token if it has one.
        accepted: number of accepted drafted tokens of each round; empty for plain decoding.
        decode_ms: from the end of the target's prefill to the end of the answer, on the engine's clock.
        wall_ms: the same on the host's clock.
        laps_ms: duration of every part of every round, by its name in `bench.variant`; empty if the engine
            cannot time parts, or was not asked to.
    """

    token_ids: list[int]
    accepted: list[int]
    decode_ms: float
    wall_ms: float
    laps_ms: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Replayed:
    """Which tokens of one answer a draft of every size has accepted.

    Attributes:
        token_ids: the target's answer.
        by_order: by the name of each order of tokens: intervals of sizes for greedy answers, ratios at some
            sizes for sampled ones.
        replay_ms: wall time of the pass, which serves all orders.
    """

    token_ids: list[int]
    by_order: Mapping[str, Intervals | Ratios]
    replay_ms: float


@dataclass(frozen=True)
class PartKey:
    """Which part of a round.

    Attributes:
        part: the lap's name in `bench.variant`.
        vocab_size: k, for parts whose cost depends on it.
        num_tokens: tokens taken in at once, for parts whose cost depends on that.
    """

    part: str
    vocab_size: int | None = None
    num_tokens: int | None = None

    @property
    def label(self) -> str:
        """The key as a name, one per key."""
        size = "" if self.vocab_size is None else f" k={self.vocab_size}"
        tokens = "" if self.num_tokens is None else f" n={self.num_tokens}"
        return self.part + size + tokens


class Engine(Protocol):
    """A target and a draft that decode prompts.

    Attributes:
        name: as it appears in results.
        full_size: tokens that the untrimmed draft can propose.
        can_probe: whether it can stop after some rounds and times every part of a round.
        can_replay: whether it can compute the acceptance of drafts of every size from one answer.
        laps_overlap: whether launches of one part of a round hide behind the work of another, so that only
            whole rounds have a time.
    """

    name: str
    full_size: int
    can_probe: bool
    can_replay: bool
    laps_overlap: bool

    def use_order(self, order: IntArray) -> None:
        """From now on the draft's vocabulary of k tokens is the first k of `order` `(full_size,)`."""

    def reseed(self, *context: object) -> None:
        """Restarts the random numbers of sampling; the same context gives the same numbers."""

    def prepare(self, prompt_ids: Sequence[int]) -> Prepared:
        """Reads a prompt once; every variant decodes from there."""

    def load(self, variant: Variant, prepared: Sequence[Prepared] = ()) -> None:
        """Builds what a variant needs, such as its LM head, before decodes of these prompts are timed."""

    def decode(
        self, prepared: Prepared, variant: Variant, max_rounds: int | None = None, with_laps: bool = True
    ) -> Decoded:
        """The answer to a prompt, up to its end.

        Args:
            prepared: the prompt.
            variant: how to decode.
            max_rounds: stop after so many rounds (steps of plain decoding), where the engine can probe; None
                decodes to the end.
            with_laps: whether every part is timed, if the engine can probe; otherwise only the total is.
        """

    def replay(
        self,
        prepared: Prepared,
        orders: Mapping[str, IntArray],
        sizes: IntArray,
        longest_draft: int,
        answer: Sequence[int] | None = None,
    ) -> Replayed:
        """The target's own answer, and which of its tokens a draft of each size and order has accepted.

        Args:
            prepared: the prompt.
            orders: by name, the draft's tokens as they enter a vocabulary.
            sizes: at which sampled answers are replayed, ascending; greedy ones are for every size.
            longest_draft: gamma up to which rounds draft.
            answer: the target's greedy answer, where it is known; else the engine decodes it.
        """

    def parts(
        self, prepared: Prepared, sizes: Sequence[int], draft_lengths: Sequence[int]
    ) -> Mapping[PartKey, Part]:
        """The parts of its rounds as repeatable calls; empty if the engine cannot run them one by one."""

    def reference(self, prompt_ids: Sequence[int], num_tokens: int) -> None:
        """Generates `num_tokens` with `transformers.generate` from the same weights, as a known baseline."""

    def synchronize(self) -> None:
        """Waits until all work is done."""
