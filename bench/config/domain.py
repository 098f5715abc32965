"""Domains, and where their text comes from."""

import string
from dataclasses import dataclass, field, fields
from enum import Enum

from bench.config.paths import expand_paths, path_key
from bench.errors import ConfigError, DomainError, require


class Source(Enum):
    """Where a domain's text comes from."""

    human_eval = "human_eval"
    bfcl = "bfcl"
    writing_bench = "writing_bench"
    file = "file"
    hub = "hub"


class Responses(Enum):
    """Whose responses a selection counts."""

    auto = "auto"
    dataset = "dataset"
    target = "target"


@dataclass
class HubConfig:
    """A data set on the Hugging Face hub.

    Attributes:
        id: data set id, or a local folder that `datasets` can load.
        config: configuration name, for a data set that has several.
        split: split of the data set. It is unrelated to the split into ranking and held-out prompts.
        revision: a commit, for reproducible results.
    """

    id: str | None = path_key(None)
    config: str | None = None
    split: str = "train"
    revision: str | None = None

    def __post_init__(self) -> None:
        expand_paths(self, "domain.hub.")


@dataclass
class ColumnsConfig:
    """The columns of a row. If all are null, the layout is detected.

    Set only one of `prompt`, `messages`, `turns` and `text`. In a format, write a literal brace twice; a list
    of words is joined by spaces.

    Attributes:
        prompt: a column, or a format over the row such as "{instruction} {input}".
        response: a column or format, as `prompt`; only together with `prompt`.
        system: a column or format, as `prompt`; only together with `prompt`.
        messages: a column with a list of turns.
        turns: a column with a list of user texts.
        text: a column with formatted or plain text.
        language: a column with the language of a row, for coverage by language. Null: `language` or `lang`,
            if a row has one; the language of a text is not detected.
    """

    prompt: str | None = None
    response: str | None = None
    system: str | None = None
    messages: str | None = None
    turns: str | None = None
    text: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        chosen = [name for name in ("prompt", "messages", "turns", "text") if getattr(self, name)]
        require(
            len(chosen) <= 1, "domain.columns", " and ".join(chosen), "only one of these, the others null"
        )
        for name in ("response", "system"):
            value = getattr(self, name)
            require(
                not value or bool(self.prompt),
                f"domain.columns.{name}",
                value,
                "together with a prompt, or null",
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


_ROLES = ("system", "user", "assistant", "tool")


@dataclass
class DomainSource:
    """One domain.

    Attributes:
        name: the name in results.
        source: the loader: `human_eval`, `bfcl`, `writing_bench`, `file` or `hub`.
        path: the file of a `file` domain: JSON Lines, JSON or Parquet.
        hub: the data set of a `hub` domain.
        columns: the columns of its rows.
        responses: whose responses a selection counts: `dataset`, `target`, or `auto`: those of the data set
            if it has any, else the target writes them.
        target_responses: if the target must write the responses: the largest number of prompts it answers, on
            each side of the split.
        max_conversations: the largest number of conversations to read; null reads all.
        plain_text: counts all text of a row, as in a general corpus, and not only assistant responses.
        template: a Jinja file in place of the target's chat template, for a target that has none or whose
            template refuses a conversation; `plain`: the contents alone, with a blank line between them;
            null: the target's own.
        max_prompt_tokens: longer prompts are left out.
        max_replayed_prompt_tokens: the same for prompts of which only acceptance is replayed, if it is more;
            null takes max_prompt_tokens.
        roles: role of each name that the rows use, such as {lagoon-7b: assistant}: system, user, assistant
            or tool. Common names such as human and gpt are known.
        max_bad_share: rows that cannot be used are set aside and counted by reason. If they are more than
            this share of all rows, that is an error.
    """

    name: str
    source: Source | None = None
    path: str | None = path_key(None)
    hub: HubConfig = field(default_factory=HubConfig)
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    responses: Responses = Responses.auto
    target_responses: int = 64
    max_conversations: int | None = None
    plain_text: bool = False
    template: str | None = path_key(None)
    max_prompt_tokens: int = 512
    max_replayed_prompt_tokens: int | None = None
    roles: dict[str, str] = field(default_factory=dict)
    max_bad_share: float = 0.05

    def __post_init__(self) -> None:
        expand_paths(self, "domain.")
        require(self.max_prompt_tokens >= 1, "domain.max_prompt_tokens", self.max_prompt_tokens, "at least 1")
        longest = self.max_replayed_prompt_tokens
        valid = longest is None or longest >= 1
        require(valid, "domain.max_replayed_prompt_tokens", longest, "at least 1, or null")
        require(self.target_responses >= 1, "domain.target_responses", self.target_responses, "at least 1")
        most = self.max_conversations
        require(most is None or most >= 1, "domain.max_conversations", most, "at least 1, or null")
        for name, role in self.roles.items():
            require(role in _ROLES, "domain.roles", f"{{{name}: {role}}}", f"a role of {', '.join(_ROLES)}")
        share = self.max_bad_share
        require(0 <= share <= 1, "domain.max_bad_share", share, "between 0 and 1")
        if self.source is Source.file and not self.path:
            raise DomainError("domain=jsonl needs the file to read: add domain.path=FILE.jsonl")
        if self.source is Source.hub and not self.hub.id:
            raise DomainError("a hub domain needs the data set to read: add domain.hub.id=OWNER/NAME")


@dataclass
class DomainConfig(DomainSource):
    """What `domain=` selects: one domain, or a named set that is measured in one run.

    Attributes:
        members: the domains of a set, by name; empty for a single domain.
    """

    members: dict[str, DomainSource] = field(default_factory=dict)

    def sources(self) -> list[DomainSource]:
        """The domains themselves."""
        if self.members:
            return list(self.members.values())
        if self.source is None:
            raise ConfigError(
                f"domain {self.name!r} has neither a source nor members: set domain.source or domain.members"
            )
        return [DomainSource(**{f.name: getattr(self, f.name) for f in fields(DomainSource)})]
