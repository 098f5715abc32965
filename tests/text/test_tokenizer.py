"""Vocabulary size, ends of answers and must-keep tokens of a target."""

import json
import shutil
from dataclasses import replace

import pytest

from bench.errors import CheckpointError
from bench.models.fetching import resolve_tokenizer
from bench.text.tokenizer import load_tokenizer


def test_the_embedded_target(target):
    assert target.vocab_size == 49152
    text = target.tokenizer.convert_ids_to_tokens(target.must_keep())
    assert {"<|im_start|>", "<|im_end|>"} <= set(text)
    assert target.eos_token_ids <= set(target.must_keep())


def test_added_tokens_that_the_template_can_emit_are_kept(target, with_template):
    changed = with_template("{{ '<think>' }}<|im_end|>")
    changed.add_tokens(["<think>", "<never>"])
    kept = replace(target, tokenizer=changed, vocab_size=49200).must_keep()
    assert changed.convert_tokens_to_ids("<think>") in kept
    assert changed.convert_tokens_to_ids("<never>") not in kept


def test_bytes_are_kept_on_request(target):
    with_bytes = target.must_keep(byte_fallback=True)
    # This vocabulary holds 235 of the 256 single bytes.
    assert len(with_bytes) == 235 + 3 and set(target.must_keep()) < set(with_bytes)


def copied(tmp_path, **config):
    source = resolve_tokenizer("smollm2-135m-instruct")
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copy(path, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, **config}))
    return tmp_path


def test_a_tokenizer_larger_than_the_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="token ids up to 49151, the checkpoint's vocab_size is 1000"):
        load_tokenizer(copied(tmp_path, vocab_size=1000))


def test_a_padded_checkpoint_is_fine(tmp_path):
    assert load_tokenizer(copied(tmp_path, vocab_size=49280)).vocab_size == 49280


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no tokenizer|not a readable"):
        load_tokenizer(tmp_path)
