"""Finds the assistant's responses in conversations, as the target's own chat template renders them.

This knows no model family. Every assistant turn is rendered as it was when the model wrote it: after the
turns before it, and as the last turn, because templates drop the thoughts of earlier turns. If a template
marks generated text, those marks are used. Otherwise, a response is the text that an assistant turn adds to
the rendering of the conversation before it.

Most templates write a plain response unchanged between two fixed marks. If one rendering of the conversation
shows all responses in this way, in order, that gives the same result in a fraction of the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from bench.errors import DomainError
from bench.text.conversation import Tools
from bench.text.left_out import left_out, read_fields
from bench.text.template import ChatTemplate, RefusedError, Turns, ways_to_call

_QUESTION, _ANSWER = "question", "answer"

# Ends of thoughts inside a content: templates may render such a turn differently when others follow.
_THOUGHT_ENDS = ("</think", "[/THINK]", "</reasoning", "<|channel|>")


class Asked(NamedTuple):
    """A conversation as chat templates expect it."""

    turns: Turns
    tools: Tools | None = None


class Response(NamedTuple):
    """One assistant turn.

    Attributes:
        text: the response as rendered by the template, including the token that ends the turn.
        left_out: (field, text) of the parts of the message that the template does not show.
    """

    text: str
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TurnMarks:
    """Text around every assistant response, found by rendering a test conversation.

    Attributes:
        header: text before the content of an assistant turn.
        tail: text after the content, such as `<|im_end|>` and a line break.
        is_opened: whether the template supports `add_generation_prompt`.
        is_steady: whether a turn is rendered in the same way when others follow it.
    """

    header: str
    tail: str
    is_opened: bool
    is_steady: bool


class ResponseFinder:
    """Finds the assistant responses of conversations.

    Args:
        tokenizer: of the target.
        template: source of a template in place of the tokenizer's.

    Raises:
        DomainError: there is no chat template, or one that cannot be used.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None):
        self._template = ChatTemplate(tokenizer, template)
        self.marks = self._probe()

    def responses(self, conversations: Sequence[Asked]) -> list[list[Response] | RefusedError]:
        """The responses of each conversation, or why the template refuses it."""
        found: list[list[Response] | RefusedError | None] = list(self._verbatim(conversations))
        return [
            self._exact(conversations[row]) if responses is None else responses
            for row, responses in enumerate(found)
        ]

    def spans(self, text: str) -> list[str]:
        """Responses in a text that was already formatted with the template."""
        pieces = text.split(self.marks.header)[1:] if self.marks.header else []
        end = self.marks.tail.rstrip()
        if not end:
            return pieces
        return [piece[: piece.index(end) + len(end)] if end in piece else piece for piece in pieces]

    # The fast method: one rendering shows every response between the marks.

    def _verbatim(self, conversations: Sequence[Asked]) -> list[list[Response] | None]:
        """Responses that one rendering contains unchanged between the marks; None where it does not."""
        found: list[list[Response] | None] = [None] * len(conversations)
        header, tail = self.marks.header, self.marks.tail
        if not header or not tail or not self.marks.is_steady or self._template.marks_generation(None):
            return found
        rows = [row for row, asked in enumerate(conversations) if _is_plain(asked)]
        turns = [_up_to_last_answer(conversations[row].turns) for row in rows]
        try:
            wholes = self._template.render_all(turns)
        except RefusedError:
            return found
        for row, shown, whole in zip(rows, turns, wholes, strict=True):
            found[row] = _between(header, tail, shown, whole)
        return found

    # The exact method: every turn as it was when the model wrote it.

    def _exact(self, asked: Asked) -> list[Response] | RefusedError:
        refused = None
        for turns in ways_to_call(asked.turns):
            try:
                return [
                    self._response(Asked(turns, asked.tools), index)
                    for index, turn in enumerate(turns)
                    if turn["role"] == "assistant"
                ]
            except RefusedError as error:
                refused = refused or error
        assert refused
        return refused

    def _response(self, asked: Asked, index: int) -> Response:
        turn, before = asked.turns[index], asked.turns[:index]
        start = self._start(before, asked.tools)
        text = self._written(Asked([*before, turn], asked.tools), start)

        def without(field: str) -> str | None:
            """The response without one field of the message; None if the template refuses that."""
            rest = (
                {**turn, "content": ""}
                if field == "content"
                else {k: v for k, v in turn.items() if k != field}
            )
            try:
                return self._body(self._written(Asked([*before, rest], asked.tools), start))
            except RefusedError:
                return None

        return Response(text, tuple(left_out(read_fields(turn), self._body(text), without)))

    def _body(self, text: str) -> str:
        """A response without the end of the turn."""
        for end in (self.marks.tail, self.marks.tail.rstrip()):
            if end and text.endswith(end):
                return text[: -len(end)]
        return text

    def _start(self, before: Turns, tools: Tools | None) -> str | None:
        """The text before the model's turn; None if the template cannot render it."""
        if not before or self._template.marks_generation(tools):
            return None
        try:
            return self._template.render(before, tools, open_turn=True)
        except RefusedError:
            return None

    def _written(self, shown: Asked, start: str | None) -> str:
        """What the model wrote in the last turn; `start` is the text before it."""
        if self._template.marks_generation(shown.tools):
            return self._marked(shown)
        whole, header = self._template.render(*shown), self.marks.header
        if start is not None and whole.startswith(start):
            rest = whole[len(start) :]
            return rest if self.marks.is_opened else rest.removeprefix(header)
        # The template renders earlier turns differently once this one follows; or it opens a turn with a mark
        # that finished turns do not have. The response then starts after the header of its own turn.
        probe = [*shown.turns[:-1], {"role": "assistant", "content": _ANSWER}]
        ahead, found, _ = self._template.render(probe, shown.tools).rpartition(_ANSWER)
        shared = commonprefix([ahead, whole])
        if not found or header not in shared:
            number = len(shown.turns)
            raise RefusedError(f"the response cannot be found in turn {number} as it is rendered")
        return whole[shared.rindex(header) + len(header) :]

    def _marked(self, asked: Asked) -> str:
        """The text that the template marks as generated in the last turn."""
        before = self._template.generated(asked.turns[:-1], asked.tools)[1] if asked.turns[1:] else []
        whole, spans = self._template.generated(*asked)
        own = spans[len(before) :]
        if not own:
            return ""
        text, end = "".join(whole[first:last] for first, last in own), self.marks.tail.rstrip()
        # Some templates mark a response without the token that ends the turn; the model still writes it.
        missing = end and not text.rstrip().endswith(end) and whole.startswith(end, own[-1][1])
        return text + end if missing else text

    def _probe(self) -> TurnMarks:
        question = {"role": "user", "content": _QUESTION}
        answer = {"role": "assistant", "content": _ANSWER}
        try:
            bare, start, whole = (
                self._template.render([question]),
                self._template.render([question], open_turn=True),
                self._template.render([question, answer]),
            )
        except RefusedError as error:
            raise DomainError(
                f"the target's chat template fails on a single question and answer: {error}"
            ) from error
        ahead, found, tail = whole.rpartition(_ANSWER)
        if not found:
            raise DomainError("the target's chat template drops the assistant's responses")
        opened = start[len(bare) :] if start.startswith(bare) else ""
        finished = ahead[len(bare) :] if ahead.startswith(bare) else ""
        # Reasoning models open a turn with a mark that finished turns do not have, or the reverse.
        header = commonprefix([opened, finished]) if opened and finished else opened or finished
        return TurnMarks(header, tail, bool(opened), self._is_steady(header, tail, [question, answer]))

    def _is_steady(self, header: str, tail: str, turns: Turns) -> bool:
        try:
            twice = self._template.render([*turns, *turns])
        except RefusedError:
            return False
        return _between(header, tail, [*turns, *turns], twice) is not None


def _is_plain(asked: Asked) -> bool:
    if asked.tools:
        return False
    return all(
        len(turn) == 2 and not any(end in turn["content"] for end in _THOUGHT_ENDS)
        for turn in asked.turns
        if turn["role"] == "assistant"
    )


def _up_to_last_answer(turns: Turns) -> Turns:
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=-1)
    # A question alone is rendered too: the template may refuse it.
    return turns[: last + 1] if last >= 0 else turns


def _between(header: str, tail: str, turns: Turns, whole: str) -> list[Response] | None:
    found, at = [], 0
    for turn in turns:
        if turn["role"] == "assistant":
            response = turn["content"] + tail
            at = whole.find(header + response, at)
            if at < 0:
                return None
            at += len(header) + len(response)
            found.append(Response(response))
    return found
