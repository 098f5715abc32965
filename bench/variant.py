"""One way to decode: how many tokens the draft's vocabulary has, and how many tokens it drafts at a time."""

from dataclasses import dataclass


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
