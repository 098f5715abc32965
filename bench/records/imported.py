"""The record of a result of another tool, which `bench/imported` reads."""

from dataclasses import dataclass

from bench.records.record import Record


@dataclass(frozen=True)
class ImportedRecord(Record):
    """One benchmark of a served model by another tool, as its result file says it.

    None is what neither the file nor the user says.

    Attributes:
        tool: that measured.
        tool_version: its version, or that of its format.
        file: name of the file, or of the folder of its files.
        file_sha256: of its content.
        index: of the benchmark in the file, from 0.
        engine: that served.
        engine_version: its version.
        model: the target, as the file calls it.
        draft: the draft, as the file or the user calls it.
        device: that served.
        domain: the text.
        vocab_size: k of the draft.
        draft_length: gamma; 0 for plain decoding.
        concurrency: most requests in flight.
        num_requests: requests that were completed.
        num_failed: requests that failed.
        num_output_tokens: of all completed requests.
        duration_s: from the first request to the end of the last.
        tokens_per_s: output tokens of all requests over that time.
        inter_token_ms: quantiles of the time between tokens, `p50`, `p90`, `p99`, as far as known.
        inter_token_of: between what this time is: arrivals, tokens, steps, or the mean of each request.
        first_token_ms: the same quantiles of the time to the first token.
        mean_acceptance_length: tau, the target's own token included.
        accepted_by_position: share of drafts whose token at each position was accepted; empty if not known.
        num_rounds: drafts that were verified.
        given: fields that the user gave, because the file does not say them.
        left_out: fields of the file that are not used and may matter.
        notes: what a reader must know, in sentences.
    """

    kind = "imported"
    named_by = ("file_sha256", "index")

    tool: str
    tool_version: str | None
    file: str
    file_sha256: str
    index: int
    engine: str | None
    engine_version: str | None
    model: str | None
    draft: str | None
    device: str | None
    domain: str | None
    vocab_size: int | None
    draft_length: int | None
    concurrency: int | None
    num_requests: int
    num_failed: int | None
    num_output_tokens: int | None
    duration_s: float | None
    tokens_per_s: float
    inter_token_ms: dict[str, float]
    inter_token_of: str | None
    first_token_ms: dict[str, float]
    mean_acceptance_length: float | None
    accepted_by_position: list[float]
    num_rounds: int | None
    given: list[str]
    left_out: list[str]
    notes: list[str]
