"""A prompt, and the seeded split into prompts that rank the vocabulary and prompts that judge it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from bench.errors import DomainError


class Split(Enum):
    """Which side of the split a prompt is on."""

    RANKING = "ranking"
    HELD_OUT = "held_out"


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for the assistant's answer.

    Attributes:
        prompt_id: stable name inside its domain.
        group: prompts of one group ask nearly the same thing and stay on one side of the split.
        messages: the turns, last one from the user.
    """

    prompt_id: str
    group: str
    messages: tuple[Message, ...]

    def as_dicts(self) -> list[dict[str, str]]:
        """The turns as chat templates take them."""
        return [{"role": m.role, "content": m.content} for m in self.messages]


class Grouped(Protocol):
    """What the split looks at: prompts and conversations alike."""

    @property
    def group(self) -> str:
        """What asks the same thing has the same group."""


def user_prompt(prompt_id: str, text: str, group: str | None = None) -> Prompt:
    """A prompt of one user turn; its group is its own text unless given."""
    return Prompt(prompt_id, text if group is None else group, (Message("user", text),))


def unit_hash(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` only: the same on every machine and run."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(prompt: Grouped, seed: int, held_out_share: float) -> Split:
    """The side of the split that a prompt or conversation is on.

    A hash of the group decides, so adding prompts never moves the others, and prompts that ask the
    same thing never straddle the split.
    """
    is_held_out = unit_hash("split", seed, prompt.group) < held_out_share
    return Split.HELD_OUT if is_held_out else Split.RANKING


def take_split(prompts: Iterable[Prompt], split: Split, seed: int, held_out_share: float) -> list[Prompt]:
    """The prompts of one side, in a seeded order that does not depend on their order in the source."""
    chosen = [p for p in prompts if split_of(p, seed, held_out_share) is split]
    return sorted(chosen, key=lambda p: unit_hash("order", seed, p.prompt_id))


# A conversation as data sets hold it: turns, or one text.


@dataclass(frozen=True)
class Conversation:
    """What was asked and, where the data set has it, what was answered.

    Attributes:
        conversation_id: stable name inside its domain.
        group: content of the prompt; conversations of one group stay on one side of the split.
        messages: the turns.
        text: preformatted or plain text instead of turns.
    """

    conversation_id: str
    group: str
    messages: tuple[Message, ...] = ()
    text: str | None = None

    @property
    def has_response(self) -> bool:
        """Whether there is something of the assistant's to count."""
        return bool(self.text) or any(m.role == "assistant" for m in self.messages)

    def to_prompt(self) -> Prompt:
        """The turns up to the last one of the user's.

        Raises:
            DomainError: the user says nothing.
        """
        turns = list(self.messages)
        while turns and turns[-1].role != "user":
            turns.pop()
        if not turns:
            raise DomainError(f"{self.conversation_id}: the conversation has no user turn to answer")
        return Prompt(self.conversation_id, self.group, tuple(turns))


def from_messages(conversation_id: str, messages: list[Message]) -> Conversation:
    """A conversation whose group is everything up to its last user turn."""
    last = len(messages)
    while last and messages[last - 1].role != "user":
        last -= 1
    group = "\n".join([m.content for m in messages[: last or None]])
    return Conversation(conversation_id, group, tuple(messages))


def from_prompt(prompt: Prompt, response: str | None = None) -> Conversation:
    """A prompt of an embedded data set, with its response where there is one."""
    answer = () if response is None else (Message("assistant", response),)
    return Conversation(prompt.prompt_id, prompt.group, (*prompt.messages, *answer))
