"""Whatever a stored result is made of: when it changes, the stored result is not used."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench import identity
from bench.analysis.load import Case
from bench.assets import sha256_of
from bench.config import ColumnsConfig, DomainSource, Responses, Source, VocabConfig
from bench.decoding import answers
from bench.decoding.answers import AnswerStore
from bench.errors import AssetError
from bench.identity import Identity, of_model
from bench.models.fetching import resolve_tokenizer
from bench.select.exports import _changed
from bench.text import domain_counts
from bench.text.conversation import user_prompt
from bench.text.domain_counts import count_domain
from bench.text.tokenizer import load_tokenizer
from bench.training.collect import _check_origin
from tests.report.synthetic import write_run

PROMPT = user_prompt("p", "Hi")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "additional_chat_templates").mkdir()
    for name, content in {
        "model-00001-of-00002.safetensors": "a",
        "model-00002-of-00002.safetensors": "b",
        "model.safetensors.index.json": '{"weight_map": {}}',
        "config.json": '{"vocab_size": 9, "transformers_version": "5.1", "_name_or_path": "x"}',
        "generation_config.json": '{"eos_token_id": 2, "use_cache": true, "transformers_version": "5.1"}',
        "tokenizer.json": "{}",
        "tokenizer_config.json": '{"clean_up": true, "transformers_version": "5.1"}',
        "special_tokens_map.json": '{"eos_token": "x"}',
        "chat_template.jinja": "{{ messages }}",
        "additional_chat_templates/tool_use.jinja": "{{ tools }}",
        "modeling.py": "pass",
    }.items():
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("model-00002-of-00002.safetensors", "c", "weights"),
        ("config.json", '{"vocab_size": 10}', "configuration"),
        ("config.json", "{broken", "configuration"),
        ("generation_config.json", '{"eos_token_id": [2, 3]}', "generation settings"),
        ("generation_config.json", None, "generation settings"),
        ("tokenizer.json", '{"model": 1}', "tokenizer"),
        ("tokenizer_config.json", '{"clean_up": false}', "tokenizer"),
        ("special_tokens_map.json", '{"eos_token": "y"}', "tokenizer"),
        ("merges.txt", "a b", "tokenizer"),
        ("chat_template.jinja", "{{ messages[0] }}", "chat template"),
        ("additional_chat_templates/tool_use.jinja", "{{ tools[0] }}", "chat template"),
        ("modeling.py", "import os", "code"),
    ],
)
def test_every_file_that_makes_a_model_is_an_ingredient(model, file, content, part):
    before = of_model("mine", model)
    if content is None:
        (model / file).unlink()
    else:
        (model / file).write_text(content)
    after = of_model("mine", model)
    assert after.differences(before.parts) == [part] and after.digest != before.digest


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", '{"transformers_version": "5.9", "_name_or_path": "y", "vocab_size": 9}'),
        ("generation_config.json", '{"use_cache": false, "pad_token_id": 0, "eos_token_id": 2}'),
        ("tokenizer_config.json", '{"transformers_version": "5.9", "clean_up": true}'),
        ("README.md", "# Hello"),
    ],
)
def test_notes_of_a_library_are_no_ingredient(model, file, content):
    before = of_model("mine", model)
    (model / file).write_text(content)
    assert of_model("mine", model) == before


def test_a_template_is_the_same_in_every_file_that_may_hold_it(model):
    before = of_model("mine", model)
    (model / "chat_template.jinja").unlink()
    templates = [
        {"name": "default", "template": "{{ messages }}"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]
    shutil.rmtree(model / "additional_chat_templates")
    (model / "tokenizer_config.json").write_text(json.dumps({"clean_up": True, "chat_template": templates}))
    assert of_model("mine", model) == before


def test_a_catalogue_model_is_known_by_its_pin_and_its_text_files(model, monkeypatch):
    monkeypatch.setitem(identity.CATALOG, "tiny", SimpleNamespace(sha256="f" * 64))
    before = of_model("tiny", model)
    assert before.parts["weights"] == "f" * 64
    (model / "config.json").write_text("{}")  # converted from the pinned file by any version of a library
    assert of_model("tiny", model) == before
    (model / "chat_template.jinja").write_text("other")
    assert of_model("tiny", model).differences(before.parts) == ["chat template"]


def test_a_blob_of_the_hub_is_known_by_its_name(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / ("e" * 64)).write_text("weights")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / ("e" * 64))
    assert identity.weights_sha256(tmp_path) == "e" * 64


# Answers.

TARGET = Identity({"weights": "w", "chat template": "c", "generation settings": "g"})


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path / "cache"))
    store = AnswerStore(TARGET, "bfloat16")
    store._keep({store.key(PROMPT): [[1, 2]]})


def knows(target=TARGET, dtype="bfloat16", prompt=PROMPT, shipped=None) -> bool:
    return bool(AnswerStore(target, dtype, *([shipped] if shipped else [])).known(prompt))


def test_kept_answers_are_of_all_that_made_them(kept, monkeypatch):
    assert knows()
    for part in TARGET.parts:
        assert not knows(target=TARGET.also(**{part: "other"}))
    assert not knows(dtype="float32")
    assert not knows(prompt=user_prompt("p", "Hello"))
    assert not knows(prompt=replace(PROMPT, tools=[{"type": "function"}]))
    assert not knows(prompt=replace(PROMPT, template="{{ messages }}"))
    for setting in answers._SETTINGS:
        with monkeypatch.context() as changed:
            changed.setitem(answers._SETTINGS, setting, 7)
            assert not knows()


def test_shipped_answers_are_of_the_target_that_their_manifest_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path / "cache"))
    shipped, manifest = tmp_path / "answers.npz", tmp_path / "manifest.json"
    with shipped.open("wb") as file:
        answers.write_answers(file, {answers.prompt_key("w", PROMPT): [[1]]})
    made_by = {"chat template": "c", "max_new_tokens": 192}
    manifest.write_text(json.dumps({"target_fingerprint": "w", "answers_made_by": made_by}))
    assert knows(shipped=shipped) and knows(shipped=shipped, dtype="float32")
    assert not knows(target=TARGET.also(weights="other"), shipped=shipped)
    assert capsys.readouterr().err == ""
    assert not knows(target=TARGET.also(**{"chat template": "other"}), shipped=shipped)
    assert "were written with other chat template; the target writes its own" in capsys.readouterr().err
    pinned = {"target_fingerprint": "w", "answers_made_by": made_by}
    for sha256, is_used in ((sha256_of(shipped), True), ("0" * 64, False)):
        manifest.write_text(json.dumps({**pinned, "answers_sha256": {"answers.npz": sha256}}))
        assert knows(shipped=shipped) is is_used
    assert "answers.npz does not have the sha256 of the manifest beside it" in capsys.readouterr().err
    manifest.unlink()
    assert not knows(shipped=shipped)


# Counts.


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """Whether counting `domain` had to be done."""
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path / "cache"))
    done = []
    original = domain_counts.count_responses
    monkeypatch.setattr(
        domain_counts, "count_responses", lambda *args, **kwargs: done.append(1) or original(*args, **kwargs)
    )

    def count(domain, target, vocab=None) -> bool:
        done.clear()
        count_domain(domain, target, vocab or VocabConfig(["full"]), None, 1, lambda n: None)
        return bool(done)

    return count


def test_kept_counts_are_of_all_that_made_them(tmp_path, counting, monkeypatch):
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"q{i}", "response": f"a{i}", "other": "b"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    domain = DomainSource("mine", Source.file, str(path), responses=Responses.dataset)
    target = load_tokenizer(resolve_tokenizer("smollm2-135m-instruct"))
    assert counting(domain, target) and not counting(domain, target)
    assert not counting(replace(domain, name="another"), target)
    copied = tmp_path / "copied.jsonl"
    shutil.copy(path, copied)
    assert not counting(replace(domain, path=str(copied)), target)
    for part in target.identity.parts:
        assert counting(domain, replace(target, identity=target.identity.also(**{part: "other"})))
    for change in (
        {"columns": ColumnsConfig(prompt="prompt", response="other")},
        {"columns": ColumnsConfig(language="other")},
        {"roles": {"x": "user"}},
        {"max_conversations": 30},
        {"plain_text": True},
        {"template": "plain"},
        {"path": str(shutil.copy(path, tmp_path / "mine.txt"))},
    ):
        assert counting(replace(domain, **change), target), change
    assert counting(domain, target, VocabConfig(["full"], split_seed=1))
    assert counting(domain, target, VocabConfig(["full"], held_out_share=0.3))
    with monkeypatch.context() as changed:
        changed.setattr(domain_counts, "DATA_VERSION", "another")
        assert counting(domain, target)
    assert not counting(domain, target)
    path.write_text(path.read_text() + "\n")
    assert counting(domain, target)


def test_a_loaded_tokenizer_is_known_by_all_that_makes_tokens():
    target = load_tokenizer(resolve_tokenizer("smollm2-135m-instruct"))
    before, tokenizer = target.identity, target.tokenizer
    tokenizer.chat_template += " "
    assert identity.of_tokenizer(tokenizer).differences(before.parts) == ["chat template"]
    tokenizer.pad_token = "<|endoftext|>"
    assert "special tokens" in identity.of_tokenizer(tokenizer).differences(before.parts)
    tokenizer.add_tokens(["<more>"])
    assert "tokenizer" in identity.of_tokenizer(tokenizer).differences(before.parts)


# Exports, comparisons, training. Resuming is in tests/runs/test_run_folder.py.


def test_an_export_is_of_the_models_that_were_measured(model):
    recorded = dict(of_model("mine", model).parts)
    environment = {"draft_fingerprint": recorded["weights"], "identity": {"draft": recorded}}
    run = SimpleNamespace(environment=environment)
    assert _changed(run, "draft", "mine", model) == []
    (model / "chat_template.jinja").write_text("other")
    (model / "config.json").write_text("{}")
    assert _changed(run, "draft", "mine", model) == ["configuration", "chat template"]
    # Runs of earlier versions recorded the weights alone, and of shards their index.
    old = SimpleNamespace(environment={"draft_fingerprint": identity.index_sha256(model)})
    assert _changed(old, "draft", "mine", model) == []
    (model / "model.safetensors.index.json").write_text("{}")
    assert _changed(old, "draft", "mine", model) == ["weights"]


def test_runs_of_models_that_differ_in_any_file_are_different_work(tmp_path):
    from bench.analysis.run import read_run

    run = read_run(write_run(tmp_path))
    parts = {"weights": "w", "chat template": "c", "tokenizer": "t"}
    cases = []
    for changed in ({}, {"chat template": "x"}, {"tokenizer": "x"}):
        environment = {**run.environment, "identity": {"target": {**parts, **changed}}}
        cases.append(Case.of(replace(run, environment=environment)))
    assert len({*cases, Case.of(run)}) == 4
    (difference,) = cases[0].differences(cases[1])
    assert difference.startswith("tokenizer, chat template, generation settings or configuration (")


def test_shards_of_another_target_are_refused(tmp_path):
    _check_origin(tmp_path, TARGET)
    (tmp_path / "a.safetensors").write_text("")
    _check_origin(tmp_path, TARGET)
    with pytest.raises(AssetError, match="have another chat template; choose another --work folder"):
        _check_origin(tmp_path, TARGET.also(**{"chat template": "x"}))
    (tmp_path / "made_by.json").unlink()
    with pytest.raises(AssetError, match="have another origin, which is unknown"):
        _check_origin(tmp_path, TARGET)
