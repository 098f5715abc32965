"""One way to decode, and the parts of its rounds."""

from dataclasses import dataclass

# The parts of a round as laps, parts on their own and tables name them. The draft reads the prompt once.
# Every round then drafts tokens (LM head and selection of each, the draft's layers between two), has them
# verified, rolls back what was not accepted, and takes in what was.
PREFILL, LAYER, HEAD, SELECT = "draft_prefill", "layer", "lm_head", "select"
VERIFY, OTHER, EXTEND = "verify", "other", "extend"

# Extension, and all of a round that drafts, in one: where a round is replayed as a graph.
DRAFT = "draft"

# Layers, LM head and selection of one chained step in one.
DRAFT_STEP = "draft_step"


@dataclass(frozen=True, order=True)
class Variant:
    """One way to decode.

    Attributes:
        vocab_size: k; the full size for plain decoding.
        draft_length: gamma, tokens that the draft drafts one after the other; 0 for plain decoding.
        batch_size: sequences that are decoded side by side.
    """

    vocab_size: int
    draft_length: int
    batch_size: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether there is no draft."""
        return self.draft_length == 0

    @property
    def columns(self) -> dict[str, int]:
        """As rows of tables name it."""
        return {"vocab_size": self.vocab_size, "draft_length": self.draft_length}

    @property
    def key(self) -> tuple[int, ...]:
        """As cases of records name it: k and gamma, and the batch where it is not one sequence."""
        batch = () if self.batch_size == 1 else (self.batch_size,)
        return (self.vocab_size, self.draft_length, *batch)


@dataclass(frozen=True)
class PlannedDecode:
    """A variant that is decoded whole, and why.

    Attributes:
        variant: how to decode.
        role: what makes it worth a measurement; several are joined by "+".
    """

    variant: Variant
    role: str

    @property
    def roles(self) -> list[str]:
        """One by one."""
        return self.role.split("+")
