"""Renders conversations with a tokenizer's chat template."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError

from bench.errors import DomainError, one_line
from bench.text.conversation import Prompt, Tools, Turn
from bench.text.messages import CALLS, THOUGHTS
from bench.text.odd_rows import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = list[Turn]

_GENERATION_MARK = re.compile(r"{%-?\s*generation\s*-?%}")

# Length of a call's id that Mistral's templates require.
_SHORT_ID = 9

# What `domain.template=plain` stands for: the contents of all turns, with a blank line between them.
PLAIN = (
    "{% for m in messages %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def template_source(name: str | None) -> str | None:
    """The template of a `domain.template`; None where the target's own is asked for.

    Raises:
        DomainError: the file cannot be read, or is no Jinja template.
    """
    if name is None or name == "plain":
        return name and PLAIN
    try:
        source = Path(name).read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise DomainError(
            f"domain.template={name} cannot be read ({error}); name a Jinja file, or plain"
        ) from error
    # Imported late: it brings in transformers, which most files do not need.
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template([[{"role": "user", "content": ""}]], chat_template=source)
    except TemplateSyntaxError as error:
        raise DomainError(f"domain.template={name}: line {error.lineno}: {one_line(error)}") from error
    except Exception:  # what it makes of a conversation is judged row by row
        return source
    return source


@cache
def _marks_generation(source: str) -> bool:
    return bool(_GENERATION_MARK.search(source))


class RefusedError(Exception):
    """The template refuses a conversation; the message says why."""


class ChatTemplate:
    """Renders conversations for the target.

    Args:
        tokenizer: of the target.
        own: source of a template in place of the tokenizer's; None takes that.

    Raises:
        DomainError: there is no chat template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", own: str | None = None):
        if own is None and not tokenizer.chat_template:
            raise DomainError(
                "the tokenizer has no chat template, so assistant turns cannot be found; give one with "
                "domain.template=FILE or domain.template=plain, use an instruction-tuned target, or count "
                "all text with domain.plain_text=true"
            )
        self._tokenizer, self._own = tokenizer, own
        self._special = dict(tokenizer.special_tokens_map)

    def source(self, tools: Tools | None) -> str:
        """The template's source. Some tokenizers have a different one for conversations with tools.

        Raises:
            DomainError: there are several templates, and none is the default.
        """
        if self._own is not None:
            return self._own
        try:
            return self._tokenizer.get_chat_template(tools=tools)
        except ValueError as error:
            raise DomainError(f"the tokenizer's chat template cannot be chosen: {error}") from error

    def marks_generation(self, tools: Tools | None) -> bool:
        """Whether the template marks the text that the model generates."""
        return _marks_generation(self.source(tools))

    def render(self, turns: Turns, tools: Tools | None = None, open_turn: bool = False) -> str:
        """The text of a conversation; with `open_turn`, also the start of the assistant's next turn.

        Raises:
            RefusedError: the template refuses it.
        """
        return self.render_all([turns], tools, open_turn)[0]

    def render_all(
        self, conversations: Sequence[Turns], tools: Tools | None = None, open_turn: bool = False
    ) -> list[str]:
        """As `render`, for several conversations with the same tools."""
        return self._render(conversations, tools, add_generation_prompt=open_turn)[0]

    def generated(self, turns: Turns, tools: Tools | None) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and the spans that the template marks as generated.

        Raises:
            RefusedError: the template refuses it.
        """
        rendered, spans = self._render([turns], tools, return_assistant_tokens_mask=True)
        return rendered[0], spans[0]

    def _render(self, conversations: Sequence[Turns], tools: Tools | None, **options: Any) -> Any:
        from transformers.utils.chat_template_utils import render_jinja_template

        source = self.source(tools)
        try:
            return render_jinja_template(
                [[_with_aliases(turn) for turn in turns] for turns in conversations],
                tools=tools,
                chat_template=source,
                **options,
                **self._special,
            )
        except Exception as error:  # a template is a program and can raise anything
            reason = str(error).strip().splitlines()
            raise RefusedError(reason[0] if reason else type(error).__name__) from error


def _with_aliases(turn: Turn) -> Turn:
    """Adds the thoughts under every name that templates use."""
    if THOUGHTS not in turn:
        return turn
    return {"reasoning": turn[THOUGHTS], "thinking": turn[THOUGHTS], **turn}


def ways_to_call(turns: Turns) -> Iterator[Turns]:
    """The turns; if there are calls, also in the other forms that some templates need.

    Engines pass arguments as values. Older templates concatenate them with strings and need JSON text.
    Mistral's templates need call ids of nine characters; engines truncate longer ids.
    """
    yield turns
    if any(turn.get(CALLS) for turn in turns):
        as_text = [_with_argument_text(turn) for turn in turns]
        yield as_text
        yield [_with_short_ids(turn) for turn in turns]
        yield [_with_short_ids(turn) for turn in as_text]


def _with_argument_text(turn: Turn) -> Turn:
    return _with_calls(turn, lambda call: {**call, "function": _written_out(call["function"])})


def _written_out(function: dict[str, Any]) -> dict[str, Any]:
    arguments = function["arguments"]
    if isinstance(arguments, str):
        return function
    return {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}


def _with_short_ids(turn: Turn) -> Turn:
    turn = _with_calls(turn, lambda call: {**call, "id": _short(call.get("id"))})
    return {**turn, "tool_call_id": _short(turn["tool_call_id"])} if "tool_call_id" in turn else turn


def _short(call_id: Any) -> str:
    return re.sub(r"[^a-zA-Z0-9]", "", str(call_id))[-_SHORT_ID:].rjust(_SHORT_ID, "0")


def _with_calls(turn: Turn, change: Any) -> Turn:
    if not isinstance(turn.get(CALLS), list):
        return turn
    is_call = [isinstance(call, dict) and isinstance(call.get("function"), dict) for call in turn[CALLS]]
    calls = [change(call) if known else call for call, known in zip(turn[CALLS], is_call, strict=True)]
    return {**turn, CALLS: calls}


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, vocab_size: int) -> list[int]:
    """Token ids of a prompt through the chat template, up to where the answer starts.

    Raises:
        RowError: the template refuses it, or it has a token without a row in the target's LM head.
    """
    template, refused = ChatTemplate(tokenizer, prompt.template), None
    for turns in ways_to_call(prompt.as_dicts()):
        try:
            text = template.render(turns, prompt.tools, open_turn=True)
            break
        except RefusedError as error:
            refused = refused or error
    else:
        raise refused_row(refused, prompt.template, prompt.place)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if prompt.template == PLAIN:
        ids = [*_start_of_text(tokenizer, text, ids), *ids]
    if ids and max(ids) >= vocab_size:
        token = tokenizer.convert_ids_to_tokens(max(ids))
        reason = f"the target has no row for token {token!r} (id {max(ids)})"
        raise RowError(reason, f"its vocabulary has {vocab_size}", prompt.place)
    return ids


def refused_row(reason: RefusedError | None, own: str | None, place: str) -> RowError:
    """A row that a template refuses; `own` is the source of a template other than the target's."""
    whose = "the target's chat template" if own is None else "domain.template"
    mend = "give a template that takes it with domain.template=FILE" if own is None else ""
    return RowError(f"{whose} refuses the conversation: {reason}", mend, place)


def _start_of_text(tokenizer: "PreTrainedTokenizerBase", text: str, ids: list[int]) -> list[int]:
    """The token that a tokenizer puts before a text, which a chat template would write."""
    start = tokenizer.bos_token_id
    is_put = start is not None and tokenizer(text)["input_ids"][:1] == [start] != ids[:1]
    return [start] if is_put else []
