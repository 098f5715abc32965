"""A conversation as data sets hold it: turns, or one text."""

from dataclasses import dataclass

from bench.domains.prompt import Message, Prompt
from bench.errors import DomainError


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
