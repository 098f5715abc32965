"""`domain.template`: a template of the user's in place of the target's chat template."""

import json

import pytest
from tokenizers.processors import TemplateProcessing

from bench.config import ColumnsConfig, DomainSource, Source
from bench.errors import DomainError
from bench.text import content_id, load_prompts
from bench.text.conversation import from_messages
from bench.text.counting import CountSettings, count_responses
from bench.text.messages import Message
from bench.text.responses import Asked, ResponseFinder
from bench.text.template import PLAIN, prompt_ids, template_source

TURNS = [
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two words"},
]
SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.fixture
def domain(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": SYSTEM}) + "\n")

    def make(template: str | None) -> DomainSource:
        return DomainSource("mine", Source.file, str(path), columns=ColumnsConfig(), template=template)

    return make


def test_a_plain_prompt_is_its_contents_and_the_tokenizers_start(domain, with_template, target):
    (prompt,) = load_prompts(domain("plain"))
    base = with_template("")
    text = "Be brief.\n\nHi"
    assert prompt_ids(base, prompt, target.vocab_size) == base.encode(text, add_special_tokens=False)
    start = base.bos_token_id
    base.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    expected = [start, *base.encode(text, add_special_tokens=False)]
    assert base.bos_token == "<|im_start|>" and prompt_ids(base, prompt, target.vocab_size) == expected


def test_plain_responses_end_with_the_tokenizers_own_end(with_template, target):
    base = with_template("")
    finder = ResponseFinder(base, PLAIN)
    assert [r.text for r in finder.responses([Asked(TURNS)])[0]] == ["Hello.", "Two words"]
    conversation = from_messages("c", [Message(t["role"], t["content"]) for t in TURNS])
    changed = type(target)(base, target.vocab_size, target.eos_token_ids, target.identity)
    counted = count_responses(lambda: [conversation], changed, CountSettings(0, 0.3, False, PLAIN), 1)
    total = counted.ranking.total() + counted.held_out.total()
    ids = [i for text in ("Hello.", "Two words") for i in (*base.encode(text), base.eos_token_id)]
    assert {int(i): int(total[i]) for i in total.nonzero()[0]} == {i: ids.count(i) for i in ids}


def test_a_file_takes_a_system_prompt_that_the_target_refuses(domain, with_template, target, tmp_path):
    strict = with_template("{{ raise_exception('System role not supported') }}")
    (prompt,) = load_prompts(domain(None))
    refusal = "refuses the conversation: System role not supported; give .* domain.template=FILE"
    with pytest.raises(DomainError, match=refusal):
        prompt_ids(strict, prompt, target.vocab_size)
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}{% endfor %}")
    (prompt,) = load_prompts(domain(str(own)))
    ids = prompt_ids(strict, prompt, target.vocab_size)
    assert strict.decode(ids) == "<|im_start|>system: Be brief.<|im_start|>user: Hi"


def test_the_datas_identity_has_the_template(domain, tmp_path):
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages[0].content }}")
    found = [content_id(domain(name)) for name in (None, "plain", str(own))]
    own.write_text("{{ messages[1].content }}")
    assert len({*found, content_id(domain(str(own)))}) == 4


def test_a_template_that_cannot_be_used_is_one_line(tmp_path):
    with pytest.raises(DomainError, match="domain.template=nowhere cannot be read .*, or plain$"):
        template_source("nowhere")
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    with pytest.raises(DomainError, match="cannot be read"):
        template_source(str(tmp_path / "bad"))
    (tmp_path / "bad").write_text("a\n{% if %}")
    with pytest.raises(DomainError, match="bad: line 2: Expected an expression"):
        template_source(str(tmp_path / "bad"))


def test_tokens_that_a_template_writes_are_in_every_vocabulary(with_template, target):
    base = with_template("")
    base.add_tokens(["<more>"])
    changed = type(target)(base, len(base), target.eos_token_ids, target.identity)
    more = set(changed.must_keep(templates=["<more>{{ messages[0].content }}"])) - set(changed.must_keep())
    assert more == {base.convert_tokens_to_ids("<more>")}
