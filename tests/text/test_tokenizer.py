"""Vocabulary size, ends of answers and must-keep tokens of a target."""

import copy
import json
import shutil
from dataclasses import replace

import pytest

from bench.config import DomainSource, Responses, Source, VocabConfig
from bench.errors import CheckpointError, DomainError
from bench.identity import of_tokenizer
from bench.models.fetching import resolve_tokenizer
from bench.text import tokenizer as tokenizer_module
from bench.text.domain_counts import count_domain
from bench.text.tokenizer import check_tokenizer_files, load_tokenizer, read_tokenizer, shared_ids


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


def chat(answer: str, number: int = 0) -> str:
    turns = [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns}) + "\n"


def count(path, target):
    domain = DomainSource("mine", Source.file, str(path), responses=Responses.dataset)
    return count_domain(domain, target, VocabConfig(["full"]), None, 1, lambda done: None)


def test_a_token_without_a_row_costs_nothing_until_it_is_counted(tmp_path, monkeypatch, target):
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path / "cache"))
    larger = copy.deepcopy(target.tokenizer)
    larger.add_tokens(["<picture_soft>"])
    found = replace(target, tokenizer=larger, identity=of_tokenizer(larger))
    assert (found.vocab_size, found.num_ids, target.num_ids) == (49152, 49153, 49152)
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(chat("A wren.", number) for number in range(30)))
    counted = count(path, found).sides
    same = count(path, target).sides
    assert (
        counted.ranking.total() == same.ranking.total()
    ).all() and counted.ranking.target_vocab_size == 49152
    path.write_text(path.read_text() + 2 * chat("See <picture_soft>!"))
    for _ in range(2):  # counted, and read back
        with pytest.raises(
            DomainError, match="token '<picture_soft>' .id 49152. was counted 2 times, .* only 49,152 rows"
        ):
            count(path, found)


def test_tokenizers_are_compared_by_their_tokens(tmp_path, target):
    assert shared_ids(target, tmp_path, 49152).tolist() == list(range(49152))
    assert len(shared_ids(target, tmp_path, 100)) == 100
    assert len(shared_ids(replace(target, vocab_size=49280), tmp_path, 49216)) == 49216
    own = json.loads(target.tokenizer.backend_tokenizer.to_str())
    vocab = own["model"]["vocab"]
    first, second = (next(name for name, token in vocab.items() if token == i) for i in (5000, 5001))
    vocab[first], vocab[second] = 5001, 5000
    (tmp_path / "tokenizer.json").write_text(json.dumps(own))
    shared = shared_ids(target, tmp_path, 49152)
    assert sorted(set(range(49152)) - set(shared.tolist())) == [5000, 5001]
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer.json cannot be read: "):
        shared_ids(target, tmp_path, 49152)


def test_a_padded_checkpoint_is_fine(tmp_path):
    assert load_tokenizer(copied(tmp_path, vocab_size=49280)).vocab_size == 49280


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no tokenizer: none of tokenizer.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("start", "here", "named"),
    [
        (b"\n\x0e\n\x05<unk>", [], "pip install sentencepiece protobuf, or"),
        (b"\n\x0e\n\x05<unk>", ["sentencepiece"], "pip install protobuf, or"),
        (b"IQ== 0\nIg== 1\n", ["sentencepiece", "google.protobuf"], "pip install tiktoken, or"),
    ],
)
def test_what_converts_a_sentencepiece_model_is_named(tmp_path, monkeypatch, start, here, named):
    monkeypatch.setattr(tokenizer_module, "_is_here", here.__contains__)
    (tmp_path / "tokenizer.model").write_bytes(start)
    with pytest.raises(CheckpointError, match=f"has tokenizer.model and no tokenizer.json.*{named}"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    check_tokenizer_files(tmp_path)


def test_a_sentencepiece_model_alone_is_a_tokenizer(tmp_path):
    pytest.importorskip("google.protobuf", reason="the extra `sentencepiece` is not installed")
    library = pytest.importorskip("sentencepiece", reason="the extra `sentencepiece` is not installed")
    words = [f"w{i}" for i in range(4, 97)]
    library.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words)] * 50),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text('{"vocab_size": 330}')
    found = load_tokenizer(tmp_path)
    plain = library.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    text = "w7 w88 hello"
    assert found.tokenizer.encode(text, add_special_tokens=False) == plain.encode(text)
    assert found.eos_token_ids == {2}
