"""What a result file says, before the user's keys complete it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """One benchmark of a file; fields as in `bench.records.ImportedRecord`.

    Attributes:
        first_error: what the tool says of a request that failed.
        is_whole: whether the tool says that its benchmark ran to its end; None where it does not say.
    """

    tool: str
    num_requests: int
    tokens_per_s: float
    tool_version: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    model: str | None = None
    draft: str | None = None
    device: str | None = None
    domain: str | None = None
    draft_length: int | None = None
    concurrency: int | None = None
    num_failed: int | None = None
    num_output_tokens: int | None = None
    duration_s: float | None = None
    inter_token_ms: dict[str, float] = field(default_factory=dict)
    inter_token_of: str | None = None
    first_token_ms: dict[str, float] = field(default_factory=dict)
    mean_acceptance_length: float | None = None
    accepted_by_position: list[float] = field(default_factory=list)
    num_rounds: int | None = None
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    first_error: str | None = None
    is_whole: bool | None = None


def by_position(counts: dict[int, float], draft_length: int | None) -> list[float]:
    """Share of rounds that accepted at least 1, 2, ... drafted tokens.

    Args:
        counts: rounds by the number of drafted tokens that they accepted.
        draft_length: gamma; None stops at the largest number.
    """
    total = sum(counts.values())
    if not total:
        return []
    longest = draft_length or max(counts)
    return [sum(n for j, n in counts.items() if j >= at) / total for at in range(1, longest + 1)]
