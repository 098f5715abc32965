"""Where a conversation's assistant responses are, by the tokenizer's own chat template.

Nothing here knows a model family. Templates that mark what is generated are taken at their word. Otherwise a
response is what rendering the conversation up to and including an assistant turn adds to rendering it up to
where that turn begins, and that the latter is a prefix of the former is checked every time.

Most templates write a response as it is between two marks that never change. Where a single rendering of the
whole conversation shows every response so, in order, that is the same answer for a fraction of the time.
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
    """Text around every assistant response, learnt from the template by rendering a probe.

    Attributes:
        header: what begins an assistant turn.
        tail: what follows its content, such as `<|im_end|>` and a line break.
    """

    header: str
    tail: str


class ResponseFinder:
    """Finds the assistant responses of conversations.

    Raises:
        DomainError: the tokenizer has no chat template, or one that cannot be followed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not tokenizer.chat_template:
            raise DomainError(
                "the tokenizer has no chat template, so assistant turns cannot be told from others; take an "
                "instruction-tuned target, or count whole texts with domain.plain_text=true"
            )
        self._tokenizer = tokenizer
        template = tokenizer.get_chat_template()
        self._marked_template = template if _GENERATION_MARK.search(template) else None
        self.marks = self._probe()

    def responses(self, conversations: Sequence[tuple[str, Turns]]) -> list[list[str]]:
        """Texts of the responses of each conversation, turn-ending tokens included.

        Args:
            conversations: (name for messages, turns) of each.

        Raises:
            DomainError: the template refuses a conversation, or renders a turn so that what precedes the
                response is not a prefix of it.
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
        """Responses that one rendering shows between the marks, as they are; None where it does not."""
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
            # Some templates leave the turn-ending token outside of the mark; the model still writes it.
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
            raise DomainError("the tokenizer's chat template drops what the assistant says")
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
        """Renders again, to name the conversation that the template refuses."""
        starts, wholes = [], []
        for (row, _), start, whole in zip(places, before, after, strict=True):
            try:
                starts.append(self._render(start, True))
                wholes.append(self._render(whole, False))
            except TemplateError as error:
                raise _refused(conversations[row][0], error) from error
        return starts, wholes

    def _shorter_start(self, conversation: tuple[str, Turns], index: int, start: str, whole: str) -> str:
        """Start of the response where an open turn renders more than a finished one shows.

        Reasoning models open a turn with a mark that is dropped again from finished turns: the response
        then begins where the two part, which must be after everything that precedes the turn.
        """
        name, turns = conversation
        bare, common = self._render(turns[:index], False), commonprefix([start, whole])
        if not common.startswith(bare):
            raise DomainError(
                f"{name}: the chat template renders turn {index + 1} so that what precedes it is no longer a "
                "prefix; its response cannot be told from the rest"
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
    return DomainError(f"{name}: the target's chat template refuses it: {error}")
