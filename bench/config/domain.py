"""Which domains, and where their text comes from."""

from dataclasses import dataclass, field
from enum import Enum

from bench.config.check import require
from bench.errors import ConfigError, DomainError


class Source(Enum):
    """Where a domain's prompts come from; named as `Task` is."""

    human_eval = "human_eval"
    bfcl = "bfcl"
    writing_bench = "writing_bench"
    jsonl = "jsonl"


@dataclass
class DomainSource:
    """One domain.

    Attributes:
        name: as it appears in results.
        source: which loader reads it.
        path: the file of a `jsonl` domain.
        max_prompt_tokens: longer prompts are left out.
    """

    name: str
    source: Source
    path: str | None = None
    max_prompt_tokens: int = 512

    def __post_init__(self) -> None:
        require(self.max_prompt_tokens >= 1, "domain.max_prompt_tokens", self.max_prompt_tokens, "at least 1")
        if self.source is Source.jsonl and not self.path:
            raise DomainError("domain=jsonl needs the file to read: add domain.path=FILE.jsonl")


@dataclass
class DomainConfig:
    """What `domain=` chose: one domain, or a named set that is measured in one run.

    Attributes:
        name: as it appears in the run's name.
        source: as in `DomainSource`; empty for a set.
        path: as in `DomainSource`.
        max_prompt_tokens: as in `DomainSource`.
        members: the domains of a set, by name.
    """

    name: str
    source: Source | None = None
    path: str | None = None
    max_prompt_tokens: int = 512
    members: dict[str, DomainSource] = field(default_factory=dict)

    def sources(self) -> list[DomainSource]:
        """The domains to measure."""
        if self.members:
            return list(self.members.values())
        if self.source is None:
            raise ConfigError(f"domain {self.name!r} names neither a source nor members")
        return [DomainSource(self.name, self.source, self.path, self.max_prompt_tokens)]
