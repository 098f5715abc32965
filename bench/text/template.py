"""Finds the assistant responses of a conversation with the tokenizer's chat template.

It works for any model family. If the template marks what is generated, those marks are used. Otherwise the
conversation is rendered twice: up to the start of an assistant turn, and including that turn. The response is
the text that the second rendering adds. It is checked every time that the first rendering is a prefix of the
second.

Most templates write a response unchanged between two fixed marks. If one rendering of the whole conversation
contains all responses like that, in order, the result is the same and takes a fraction of the time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from bench.errors import DomainError

Turns = list[dict[str, str]]

_QUESTION, _ANSWER = "question", "answer"

_GENERATION_MARK = re.compile(r"{%-?\s*generation\s*-?%}")


@dataclass(frozen=True)
class TurnMarks:
    """The text around every assistant response, found by rendering a test conversation.

    Attributes:
        header: text before the content of an assistant turn.
        tail: text after the content, such as `<|im_end|>` and a line break.
    """

    header: str
    tail: str


class ResponseFinder:
    """Finds the assistant responses of conversations.

    Raises:
        DomainError: the tokenizer has no chat template, or one that cannot be used.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not tokenizer.chat_template:
            raise DomainError(
                "the tokenizer has no chat template, so assistant turns cannot be found; use an "
                "instruction-tuned target, or count all text with domain.plain_text=true"
            )
        self._tokenizer = tokenizer
        template = tokenizer.get_chat_template()
        self._marked_template = template if _GENERATION_MARK.search(template) else None
        self.marks = self._probe()

    def responses(self, conversations: Sequence[tuple[str, Turns]]) -> list[list[str]]:
        """Texts of the responses of each conversation, including the tokens that end a turn.

        Args:
            conversations: (name for error messages, turns) of each.

        Raises:
            DomainError: the template refuses a conversation, or the text before a response is not a prefix of
                the rendered turn.
        """
        if self._marked_template:
            return [self._marked(name, turns) for name, turns in conversations]
        found = self._verbatim(conversations)
        missing = [row for row, texts in enumerate(found) if texts is None]
        if missing:
            exact = self._incremental([conversations[row] for row in missing])
            for row, texts in zip(missing, exact, strict=True):
                found[row] = texts
        return [texts for texts in found if texts is not None]

    def _verbatim(self, conversations: Sequence[tuple[str, Turns]]) -> list[list[str] | None]:
        """Responses that one rendering contains unchanged between the marks; None where it does not."""
        header, tail = self.marks.header, self.marks.tail
        if not header or not tail:
            return [None] * len(conversations)
        try:
            wholes = self._render_all([turns for _, turns in conversations], False)
        except TemplateError:
            return [None] * len(conversations)
        return [
            _between(header, tail, turns, whole)
            for (_, turns), whole in zip(conversations, wholes, strict=True)
        ]

    def _incremental(self, conversations: Sequence[tuple[str, Turns]]) -> list[list[str]]:
        places = [
            (row, index)
            for row, (_, turns) in enumerate(conversations)
            for index, turn in enumerate(turns)
            if turn["role"] == "assistant"
        ]
        before = [conversations[row][1][:index] for row, index in places]
        after = [conversations[row][1][: index + 1] for row, index in places]
        found: list[list[str]] = [[] for _ in conversations]
        try:
            starts, wholes = self._render_all(before, True), self._render_all(after, False)
        except TemplateError:
            starts, wholes = self._one_by_one(conversations, places, before, after)
        for (row, index), start, whole in zip(places, starts, wholes, strict=True):
            if not whole.startswith(start):
                start = self._shorter_start(conversations[row], index, start, whole)
            found[row].append(whole[len(start) :])
        return found

    def spans(self, text: str) -> list[str]:
        """Responses inside a text that the template has already been applied to."""
        pieces = text.split(self.marks.header)[1:]
        end = self.marks.tail.rstrip()
        if not end:
            return pieces
        return [piece[: piece.index(end) + len(end)] if end in piece else piece for piece in pieces]

    def _marked(self, name: str, turns: Turns) -> list[str]:
        """Responses that the template itself marks as generated."""
        try:
            rendered, indices = render_jinja_template(
                [turns],
                chat_template=self._marked_template,
                return_assistant_tokens_mask=True,
                **self._tokenizer.special_tokens_map,
            )
        except TemplateError as error:
            raise _refused(name, error) from error
        whole, end, found = rendered[0], self.marks.tail.rstrip(), []
        for first, last in indices[0]:
            # Some templates mark a response without the token that ends the turn; the model still writes it.
            missing = end and not whole[first:last].rstrip().endswith(end) and whole.startswith(end, last)
            found.append(whole[first : last + (len(end) if missing else 0)])
        return found

    def _probe(self) -> TurnMarks:
        turns = [{"role": "user", "content": _QUESTION}]
        answered = [*turns, {"role": "assistant", "content": _ANSWER}]
        try:
            bare, start = self._render(turns, False), self._render(turns, True)
            whole = self._render(answered, False)
        except TemplateError as error:
            raise DomainError(f"the tokenizer's chat template cannot be rendered: {error}") from error
        _, found, tail = whole.rpartition(_ANSWER)
        if not found:
            raise DomainError("the tokenizer's chat template drops the assistant's responses")
        header = start[len(bare) :] if start.startswith(bare) else ""
        return TurnMarks(header, tail)

    def _render(self, turns: Turns, open_turn: bool) -> str:
        return self._render_all([turns], open_turn)[0]

    def _render_all(self, conversations: list[Turns], open_turn: bool) -> list[str]:
        if not conversations:
            return []
        arguments: dict[str, Any] = {"tokenize": False, "add_generation_prompt": open_turn}
        return self._tokenizer.apply_chat_template(conversations, **arguments)

    def _one_by_one(
        self,
        conversations: Sequence[tuple[str, Turns]],
        places: list[tuple[int, int]],
        before: list[Turns],
        after: list[Turns],
    ) -> tuple[list[str], list[str]]:
        """Renders one at a time, to find the conversation that the template refuses."""
        starts, wholes = [], []
        for (row, _), start, whole in zip(places, before, after, strict=True):
            try:
                starts.append(self._render(start, True))
                wholes.append(self._render(whole, False))
            except TemplateError as error:
                raise _refused(conversations[row][0], error) from error
        return starts, wholes

    def _shorter_start(self, conversation: tuple[str, Turns], index: int, start: str, whole: str) -> str:
        """The common start of an open and a finished turn, if the open turn is not a prefix.

        Reasoning models open a turn with a mark that finished turns do not have. The response then starts
        where the two renderings differ, which must be after everything before the turn.
        """
        name, turns = conversation
        bare, common = self._render(turns[:index], False), commonprefix([start, whole])
        if not common.startswith(bare):
            raise DomainError(
                f"{name}: the chat template changes the text before turn {index + 1} when it renders that "
                "turn, so the response cannot be found"
            )
        return common


def _between(header: str, tail: str, turns: Turns, whole: str) -> list[str] | None:
    found, at = [], 0
    for turn in turns:
        if turn["role"] == "assistant":
            response = turn["content"] + tail
            at = whole.find(header + response, at)
            if at < 0:
                return None
            at += len(header) + len(response)
            found.append(response)
    return found


def _refused(name: str, error: TemplateError) -> DomainError:
    return DomainError(f"{name}: the target's chat template refuses the conversation: {error}")
