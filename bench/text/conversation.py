"""Prompts and conversations, and the seeded split: one side ranks the tokens, the other is held out."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol

from bench.text.odd_rows import RowError

# A turn as chat templates expect it: role, content, and every other field of the message.
Turn = dict[str, Any]

Tools = list[dict[str, Any]]


class Split(Enum):
    """Which side of the split a prompt is on."""

    RANKING = "ranking"
    HELD_OUT = "held_out"


_TRAINING_MARKS = ("weight", "train", "loss")


class Message(NamedTuple):
    """One turn of a conversation.

    Attributes:
        role: system, user, assistant or tool.
        content: its text; empty if a turn only has thoughts or tool calls.
        fields: every other field of the message, under the names that chat templates use, such as
            `reasoning_content` and `tool_calls`; None if there is none.
    """

    role: str
    content: str
    fields: dict[str, Any] | None = None

    @property
    def is_marked_untrained(self) -> bool:
        """Whether a field says that models must not be trained on this turn, as fine-tuning files have it."""
        fields = self.fields
        if not fields:
            return False
        return any(name in fields and fields[name] in (0, False) for name in _TRAINING_MARKS)

    def as_turn(self) -> Turn:
        """The message as chat templates expect it."""
        return {"role": self.role, "content": self.content, **(self.fields or {})}


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a user turn, for the target to answer.

    Attributes:
        prompt_id: stable name inside its domain.
        group: prompts of one group ask nearly the same question and stay on one side of the split.
        messages: the turns; the last one is the user's.
        tools: JSON schemas of the tools that the assistant may call; None if there are none.
        place: location of its row, for messages.
        template: source of the template that renders it; None for the target's own.
        language: as its row states it; None if it does not.
    """

    prompt_id: str
    group: str
    messages: tuple[Message, ...]
    tools: Tools | None = None
    place: str = ""
    template: str | None = None
    language: str | None = None

    def as_dicts(self) -> list[Turn]:
        """The turns as chat templates expect them."""
        return [message.as_turn() for message in self.messages]


class Grouped(Protocol):
    """What the split needs of a prompt or conversation."""

    @property
    def group(self) -> str:
        """The same for all prompts that ask the same question."""


def user_prompt(prompt_id: str, text: str, group: str | None = None) -> Prompt:
    """A prompt of one user turn. Its group is its text, unless given."""
    return Prompt(prompt_id, text if group is None else group, (Message("user", text),))


def unit_hash(*parts: object) -> float:
    """A number in [0, 1) that depends only on `parts`: the same on every machine and in every run."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(prompt: Grouped, seed: int, held_out_share: float) -> Split:
    """The side of the split that a prompt or conversation is on.

    A hash of the group decides. So new prompts never move other prompts to the other side, and prompts that
    ask the same question are always on the same side.
    """
    is_held_out = unit_hash("split", seed, prompt.group) < held_out_share
    return Split.HELD_OUT if is_held_out else Split.RANKING


def take_split(prompts: Iterable[Prompt], split: Split, seed: int, held_out_share: float) -> list[Prompt]:
    """The prompts of one side, in a seeded order that is independent of their order in the source."""
    chosen = [p for p in prompts if split_of(p, seed, held_out_share) is split]
    return sorted(chosen, key=lambda p: unit_hash("order", seed, p.prompt_id))


@dataclass(frozen=True)
class Conversation:
    """A prompt with its responses, as far as the data set has them.

    Attributes:
        conversation_id: stable name inside its domain.
        group: content of the prompt. Conversations of one group stay on one side of the split.
        messages: the turns.
        text: instead of turns: one text, plain or already formatted with a chat template.
        tools: JSON schemas of the tools that the assistant may call; None if there are none.
        place: location of its row, for messages.
        unseen: types of content without text, such as images, in turns of the user or of tools.
        unused: other columns of the row with text, if no response was found.
        language: as the row states it; None if it does not.
    """

    conversation_id: str
    group: str
    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: Tools | None = None
    place: str = ""
    unseen: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    language: str | None = None

    @property
    def has_response(self) -> bool:
        """Whether there is text of the assistant to count."""
        return bool(self.text) or any(m.role == "assistant" for m in self.messages)

    def to_prompt(self) -> Prompt:
        """The turns up to the last user turn.

        Raises:
            RowError: there is no user turn, or the prompt has content without text, such as an image.
        """
        place = self.place or self.conversation_id
        turns = self.messages[: _end_of_prompt(self.messages)]
        if not turns:
            raise RowError("the conversation has no user turn to answer", place=place)
        if self.unseen:
            raise RowError(
                f"the prompt has content of type {self.unseen[0]!r}, which the target cannot read",
                place=place,
            )
        return Prompt(self.conversation_id, self.group, turns, self.tools, self.place, language=self.language)


def _end_of_prompt(messages: Sequence[Message]) -> int:
    """Number of turns up to and including the last user turn."""
    last = len(messages)
    while last and messages[last - 1].role != "user":
        last -= 1
    return last


def from_messages(conversation_id: str, messages: Sequence[Message], **facts: Any) -> Conversation:
    """A conversation whose group is everything up to its last user turn."""
    last = _end_of_prompt(messages)
    group = "\n".join([m.content for m in messages[: last or None]])
    return Conversation(conversation_id, group, tuple(messages), **facts)


def from_prompt(prompt: Prompt, response: str | None = None) -> Conversation:
    """A prompt of an embedded data set, with its response if there is one."""
    answer = () if response is None else (Message("assistant", response),)
    return Conversation(prompt.prompt_id, prompt.group, (*prompt.messages, *answer))
