"""Which domains, and where their text comes from."""

import string
from dataclasses import dataclass, field, fields
from enum import Enum

from bench.errors import ConfigError, DomainError, require


class Source(Enum):
    """Where a domain's text comes from; named as `Task` is."""

    human_eval = "human_eval"
    bfcl = "bfcl"
    writing_bench = "writing_bench"
    file = "file"
    hub = "hub"


class Responses(Enum):
    """Whose responses count; named as `Task` is."""

    auto = "auto"
    dataset = "dataset"
    target = "target"


@dataclass
class HubConfig:
    """A data set on the Hugging Face hub.

    Attributes:
        id: of the data set, or a local folder that `datasets` can load.
        config: of a data set that has several.
        split: of the data set; nothing to do with the split into ranking and held-out.
        revision: a commit, for results that repeat.
    """

    id: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None


@dataclass
class ColumnsConfig:
    """Where a row keeps what; all null means that the layout is recognised by itself.

    Only one of `prompt`, `messages`, `turns` and `text` may be given. In a format, a brace that stands for
    itself is written twice, and a list of words is joined by spaces.

    Attributes:
        prompt: column, or a format over the row such as "{instruction} {input}".
        response: as `prompt`, and only beside it.
        system: as `response`.
        messages: column with a list of turns.
        turns: column with a list of user texts.
        text: column with preformatted or plain text.
    """

    prompt: str | None = None
    response: str | None = None
    system: str | None = None
    messages: str | None = None
    turns: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        chosen = [name for name in ("prompt", "messages", "turns", "text") if getattr(self, name)]
        require(len(chosen) <= 1, "domain.columns", " and ".join(chosen), "one of these, the others null")
        for name in ("response", "system"):
            value = getattr(self, name)
            require(
                not value or bool(self.prompt), f"domain.columns.{name}", value, "beside a prompt, or null"
            )
        for name in ("prompt", "response", "system"):
            value = getattr(self, name)
            require(
                _is_format(value or ""), f"domain.columns.{name}", value, "a column or a format such as {a}"
            )


def _is_format(pattern: str) -> bool:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
    except ValueError:
        return False
    return all(name and not name.isdigit() for name in names)


@dataclass
class DomainSource:
    """One domain.

    Attributes:
        name: as it appears in results.
        source: which loader reads it.
        path: the file of a `file` domain: JSON Lines, JSON or Parquet.
        hub: the data set of a `hub` domain.
        columns: where its rows keep what.
        responses: whose count in a selection: `auto` takes the data set's own where it has them.
        target_responses: most prompts, per side of the split, that the target answers where it has to.
        max_conversations: reads no more than so many; null reads all.
        plain_text: rows of text count whole, as a general corpus has them.
        max_prompt_tokens: longer prompts are left out.
    """

    name: str
    source: Source | None = None
    path: str | None = None
    hub: HubConfig = field(default_factory=HubConfig)
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    responses: Responses = Responses.auto
    target_responses: int = 64
    max_conversations: int | None = None
    plain_text: bool = False
    max_prompt_tokens: int = 512

    def __post_init__(self) -> None:
        require(self.max_prompt_tokens >= 1, "domain.max_prompt_tokens", self.max_prompt_tokens, "at least 1")
        require(self.target_responses >= 1, "domain.target_responses", self.target_responses, "at least 1")
        most = self.max_conversations
        require(most is None or most >= 1, "domain.max_conversations", most, "at least 1, or null")
        if self.source is Source.file and not self.path:
            raise DomainError("domain=jsonl needs the file to read: add domain.path=FILE.jsonl")
        if self.source is Source.hub and not self.hub.id:
            raise DomainError("a hub domain needs the data set to read: add domain.hub.id=OWNER/NAME")


@dataclass
class DomainConfig(DomainSource):
    """What `domain=` chose: one domain, or a named set that is measured in one run.

    Attributes:
        members: the domains of a set, by name.
    """

    members: dict[str, DomainSource] = field(default_factory=dict)

    def sources(self) -> list[DomainSource]:
        """The domains themselves."""
        if self.members:
            return list(self.members.values())
        if self.source is None:
            raise ConfigError(f"domain {self.name!r} names neither a source nor members")
        return [DomainSource(**{f.name: getattr(self, f.name) for f in fields(DomainSource)})]
