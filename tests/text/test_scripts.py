"""Scripts of tokens: whole words, bytes of a character, accents, and what a script needs."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from bench.text.scripts import TokenScripts

# Letters of each script, some of which the tokenizer has only in bytes.
LETTERS = {
    "Latin": "abcdefghijklmnopqrstuvwxyzæøåéš",
    "Cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюяѣ",
    "Greek": "αβγδεζηθικλμνξοπρστυφχψωἀ",
    "Arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "Hebrew": "אבגדהוזחטיכלמנסעפצקרשת",
    "Han": "的一是不了人我在有他这中大来上国鱻𠀀",
    "Hiragana": "あいうえおかきくけこ",
    "Hangul": "가나다라마바사아자차",
    "Devanagari": "कखगघङचछजझञट",
    "Thai": "กขคงจฉชซ",
    "Ethiopic": "ሀለሐመሠረ",
}


_KEPT: dict[str, set[int]] = {}


def kept(target, script: str) -> set[int]:
    if script not in _KEPT:
        _KEPT[script] = {*target.scripts.tokens_of([script]).tolist()}
    return _KEPT[script]


def by_script(target, text: str) -> dict[str, int]:
    ids = target.tokenizer.encode(text, add_special_tokens=False)
    counts = np.bincount(ids, minlength=target.vocab_size)
    found = target.scripts.split(counts, target.scripts.count([ids]))
    return {name: int(own.sum()) for name, own in found.items() if own.any()}


@pytest.mark.parametrize("script", LETTERS)
def test_letters_have_one_script_however_they_are_cut(target, script):
    text = "".join(LETTERS[script])
    assert by_script(target, text) == {script: len(target.tokenizer.encode(text))}


def test_every_token_is_attributed_once(target):
    text = "Hello мир! 你好 e\u0301 مَرحبا 😀👍🏽 12"
    found = by_script(target, text)
    assert sum(found.values()) == len(target.tokenizer.encode(text))
    assert set(found) == {"Latin", "Cyrillic", "Han", "Arabic", "Common"}


@pytest.mark.parametrize(
    ("text", "script"), [("e\u0301", "Latin"), ("и\u0301", "Cyrillic"), ("\u0301", "Common")]
)
def test_an_accent_has_the_script_of_its_letter(target, text, script):
    assert set(by_script(target, text)) == {script}


def test_half_a_character_is_unknown(target):
    ids = target.tokenizer.encode("鱻", add_special_tokens=False)
    assert len(ids) > 1
    assert {script for script, _ in target.scripts.count([ids[:1]])} == {"Unknown"}
    # The next text does not complete it.
    assert {script for script, _ in target.scripts.count([ids[:1], ids[1:]])} == {"Unknown"}


def test_tokens_that_end_a_turn_are_no_letters(target):
    assert set(by_script(target, "<|im_end|>")) == {"special tokens"}


@pytest.mark.parametrize("script", LETTERS)
def test_kept_scripts_write_any_text_in_them(target, script):
    assert {*target.tokenizer.encode("".join(LETTERS[script]))} <= kept(target, script)
    assert len(kept(target, script)) < target.vocab_size


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30), script=st.sampled_from([*LETTERS, "Common"]))
def test_every_token_of_a_kept_script_is_kept(target, text, script):
    ids = target.tokenizer.encode(text, add_special_tokens=False)
    counts = np.bincount(ids, minlength=target.vocab_size)
    own = target.scripts.split(counts, target.scripts.count([ids])).get(script, np.zeros_like(counts))
    assert {*np.flatnonzero(own).tolist()} <= kept(target, script)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=20), max_size=4))
def test_scripts_split_all_counts(target, texts):
    ids = [target.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    counts = np.bincount(np.array(sum(ids, []), dtype=np.int64), minlength=target.vocab_size)
    split = target.scripts.split(counts, target.scripts.count(ids))
    assert (sum(split.values(), np.zeros_like(counts)) == counts).all()
    assert all(own.min() >= 0 for own in split.values())


def test_bytes_of_sentencepiece_vocabularies():
    words = ["<unk>", "▁слово", "▁word", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>")
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    scripts = TokenScripts(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"), len(words))
    han = [4 + byte for byte in "鱻".encode()]
    assert scripts.count([[1, *han]]) == dict.fromkeys([("Han", token) for token in han], 1)
    counts = np.bincount([1, 2, 3, *han], minlength=len(words))
    split = scripts.split(counts, scripts.count([[1, 2, 3, *han]]))
    assert {name: own.sum() for name, own in split.items() if own.any()} == {
        "Cyrillic": 1, "Latin": 1, "Common": 1, "Han": 3,
    }  # fmt: skip
    assert {*scripts.tokens_of(["Cyrillic"]).tolist()} >= {1, *(4 + byte for byte in "ж".encode())}


def test_a_copied_tokenizer_gives_the_same(target):
    again = TokenScripts(copy.deepcopy(target.tokenizer), target.num_ids)
    assert again.tokens_of(["Greek"]).tolist() == target.scripts.tokens_of(["Greek"]).tolist()
