"""One key changes, nothing else does: on any JSON in any formatting."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import CheckpointError
from bench.export.layouts import with_draft_vocab_size

NAMES = st.text(st.characters(codec="utf-8"), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES | st.sampled_from(["vocab_size", "draft_vocab_size"]), VALUES, max_size=6)


@given(OBJECTS, st.sampled_from([None, 0, 2, 4, "\t"]), st.booleans())
def test_only_the_one_key_changes(values, indent, escaped):
    text = json.dumps(values, indent=indent, ensure_ascii=escaped)
    edited = json.loads(with_draft_vocab_size(text, 77, "config.json"))
    assert edited == {**values, "draft_vocab_size": 77}
    assert [key for key in edited if key != "draft_vocab_size"] == [
        k for k in values if k != "draft_vocab_size"
    ]


@given(OBJECTS, st.lists(st.sampled_from(["", " ", "\n", "\r\n", "\t"]), min_size=3, max_size=3))
def test_any_formatting_around_the_key_is_kept(values, gaps):
    values = {**values, "draft_vocab_size": 3}
    before, comma, colon = gaps
    text = f"{before}{json.dumps(values, separators=(comma + ',', colon + ': '))}{before}"
    other = {**values, "draft_vocab_size": 12345}
    expected = f"{before}{json.dumps(other, separators=(comma + ',', colon + ': '))}{before}"
    assert with_draft_vocab_size(text, 12345, "config.json") == expected


def test_formatting_is_kept_to_the_byte():
    text = '{\r\n   "a" : [1,2 ],\r\n   "vocab_size" : 9,\r\n   "z": {"draft_vocab_size": 3}\r\n}\r\n'
    expected = text.replace('"vocab_size" : 9,', '"vocab_size" : 9,\r\n   "draft_vocab_size" : 5,')
    assert with_draft_vocab_size(text, 5, "c") == expected
    assert with_draft_vocab_size(expected, 6, "c") == expected.replace('size" : 5', 'size" : 6')


def test_the_new_key_is_spaced_as_the_keys_after_a_comma():
    text = '{"vocab_size": 9, "z": 1}'
    assert with_draft_vocab_size(text, 5, "c") == '{"vocab_size": 9, "draft_vocab_size": 5, "z": 1}'


def test_an_empty_object_gets_the_key():
    assert with_draft_vocab_size("{ }\n", 4, "c") == '{"draft_vocab_size": 4 }\n'


@pytest.mark.parametrize(("text", "reason"), [("{", "not valid JSON"), ("[1]", "expected a JSON object")])
def test_what_is_no_configuration_is_named(text, reason):
    with pytest.raises(CheckpointError, match=rf"mine\.json: {reason}"):
        with_draft_vocab_size(text, 4, "mine.json")
