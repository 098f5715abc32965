"""The real tokenizer, and the templates of other families put on it."""

import copy

import pytest

from bench.models.fetching import resolve_tokenizer
from bench.text.tokenizer import load_tokenizer

# What these families' templates do, in the words of this test: another header, another end, content that is
# stripped, an open turn that shows more than a finished one, marks around what is generated.
TEMPLATES = {
    "stripped": (
        "{% for m in messages %}[{{ m.role }}]: {{ m.content | trim }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]: {% endif %}"
    ),
    "thinking": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    ),
    "marked": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "endless": (
        "{% for m in messages %}{{ m.role }}> {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant> {% endif %}"
    ),
    "strict": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn, please') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "forgetful": (
        "{% for m in messages[-2:] %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}


@pytest.fixture(scope="session")
def target():
    return load_tokenizer(resolve_tokenizer("smollm2-135m-instruct"))


@pytest.fixture
def tokenizer(target):
    return target.tokenizer


@pytest.fixture
def with_template(tokenizer):
    def make(name: str):
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = TEMPLATES.get(name, name)
        return changed

    return make
