"""Where an exported vocabulary comes from: kept inside and beside every export."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Provenance:
    """What made a vocabulary.

    Attributes:
        version: of this program.
        command: that ran.
        pair: target and draft, by name.
        domain: that it was chosen for.
        target: the target model.
        target_revision: of it on the hub.
        tokenizer_hash: sha256 of vocabulary, merges and chat template.
        source_id: identity of the text.
        ranking: weights of the domains that ranked the tokens.
        responses: `dataset` or `target`, whoever wrote them.
        vocab_size: k.
        target_vocab_size: V.
        coverage_train: C(k) of the ranking responses.
        coverage_heldout: C(k) of the held-out responses; None without any.
        content_hash: of the ids: maps of one size differ in it.
        num_ranking_tokens: tokens that were counted for the ranking.
    """

    version: str
    command: str
    pair: str
    domain: str
    target: str
    target_revision: str | None
    tokenizer_hash: str
    source_id: str
    ranking: dict[str, float]
    responses: str
    vocab_size: int
    target_vocab_size: int
    coverage_train: float
    coverage_heldout: float | None
    content_hash: str
    num_ranking_tokens: int

    def as_metadata(self) -> dict[str, str]:
        """For a safetensors header, which holds text only."""
        return {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in asdict(self).items()
        }
