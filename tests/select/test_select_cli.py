"""`task=select` as a user meets it: a file of conversations in, a vocabulary and its exports out."""

import json
import random
import re

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from bench.export.checkpoint import read_head
from bench.export.gguf_files import read_gguf_vocab
from bench.export.readers import read_map
from bench.models.checkpoint import SHIPPED
from bench.models.fetching import resolve_model, resolve_tokenizer
from bench.models.mtp import open_mtp
from bench.text.tokenizer import load_tokenizer
from tests.select.in_process import run_here
from tests.test_cli import check_refused, run

WORDS = [f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    with path.open("w") as file:
        for number in range(120):
            answer = " ".join(rng.choices(WORDS, weights=range(len(WORDS), 0, -1), k=60))
            turns = [{"from": "human", "value": f"Question {number}?"}, {"from": "gpt", "value": answer}]
            file.write(json.dumps({"conversations": turns}) + "\n")
    return path


def select_here(monkeypatch, path, out, *arguments):
    return run_here(
        monkeypatch,
        *("task=select", "domain=jsonl", f"domain.path={path}", f"out={out}", "select.trials=1"),
        "select.checkpoint=false",
        *arguments,
    )


@pytest.fixture(scope="module")
def selected(conversations, tmp_path_factory):
    out = tmp_path_factory.mktemp("select") / "out"
    done = run(
        *("task=select", "domain=jsonl", f"domain.path={conversations}", f"out={out}", "select.trials=20"),
        "select.k_min=5",
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_summary_agrees_with_the_files_beside_it(selected):
    out, printed = selected
    summary = json.loads((out / "summary.json").read_text())
    with np.load(out / "token_counts.npz") as file:
        ids, counts = file["ids"], file["counts"]
    curve = pd.read_parquet(out / "coverage.parquet").set_index("vocab_size")
    assert counts.sum() == summary["num_tokens"] and len(ids) == summary["num_distinct_tokens"]
    assert summary["num_conversations"] + summary["num_conversations_heldout"] == 120
    assert list(curve.index) == list(range(1, summary["target_vocab_size"] + 1))
    best = curve.loc[summary["vocab_size"]]
    legal = curve[(curve.index >= summary["k_min"]) & curve["can_be_chosen"]]
    assert legal["utility"].max() == pytest.approx(best["utility"]) == pytest.approx(summary["utility"])
    assert best["utility"] == pytest.approx(0.5 * best["coverage_train"] + 0.5 * best["latency_reduction"])
    for name in ("coverage_train", "coverage_heldout", "coverage_heldout_ci_low", "latency_reduction"):
        assert summary[name] == pytest.approx(best[name])
    assert (
        summary["coverage_heldout_ci_low"]
        <= summary["coverage_heldout"]
        <= summary["coverage_heldout_ci_high"]
    )
    assert summary["tpe_regret"] >= 0
    assert f"{summary['vocab_size']:,}" in printed and str(out) in printed


def test_the_ranking_is_by_count_then_id_behind_the_must_keep_set(selected):
    out, _ = selected
    summary, curve = json.loads((out / "summary.json").read_text()), pd.read_parquet(out / "coverage.parquet")
    rest = curve.iloc[summary["num_must_keep"] :]
    keys = list(zip(-rest["token_count"], rest["token_id"], strict=True))
    assert keys == sorted(keys)


def test_every_export_holds_the_chosen_tokens(selected):
    out, _ = selected
    summary, curve = json.loads((out / "summary.json").read_text()), pd.read_parquet(out / "coverage.parquet")
    size, total = summary["vocab_size"], summary["target_vocab_size"]
    chosen = sorted(curve["token_id"].iloc[:size].tolist())
    exports = out / "exports"
    manifest = json.loads((exports / "manifest.json").read_text())
    assert manifest["provenance"]["content_hash"] == summary["content_hash"]
    assert "task=select" in manifest["provenance"]["command"]
    maps = [e["path"] for e in manifest["files"] if not re.search(r"t2d\.npy|token_freq", e["path"])]
    assert len(maps) == 8
    for path in maps:
        assert read_map(exports / path, total).target_ids.tolist() == chosen
    assert read_gguf_vocab(exports / "draft.gguf", total).target_ids.tolist() == chosen
    assert json.loads((exports / "eagle3_config.json").read_text())["draft_vocab_size"] == size
    for folder in ("draft", "draft-speculators"):
        tensors = load_file(exports / folder / "model.safetensors")
        assert (torch.arange(size) + tensors["d2t"]).tolist() == chosen
        assert tensors["lm_head.weight"].shape == (size, 576)


def test_the_export_of_the_mtp_pair_is_read_back(conversations, tmp_path, monkeypatch):
    out = tmp_path / "out"
    done = run_here(
        monkeypatch,
        *("task=select", "pair=smollm2-135m-mtp", "domain=jsonl", f"domain.path={conversations}"),
        *(f"out={out}", "select.trials=1", "select.vocab_size=64"),
    )
    assert done.returncode == 0, done.stderr
    exports, summary = out / "exports", json.loads((out / "summary.json").read_text())
    chosen = read_map(exports / "draft_vocab.safetensors", summary["target_vocab_size"]).target_ids
    for name in ("ids.txt", "ids.json", "ids.i32"):
        found = read_map(exports / "token_ids" / name, summary["target_vocab_size"])
        assert found.target_ids.tolist() == chosen.tolist()
    module, whole = open_mtp(exports / "draft"), open_mtp(SHIPPED / "smollm2-135m-mtp")
    assert module.vocab.target_ids.tolist() == chosen.tolist() and len(chosen) == 64
    assert module.tensors.keys() == whole.tensors.keys()
    for name, stored in module.tensors.items():
        assert torch.equal(stored.tensor(), whole.tensors[name].tensor())
    target_head = next(iter(read_head(resolve_model("smollm2-135m-instruct")).values())).tensor()
    assert module.head is not None and torch.equal(module.head.tensor(), target_head[chosen])
    # llama.cpp has no MTP layer for a Llama.
    assert not (exports / "draft.gguf").exists()


def test_the_report_shows_every_figure(selected):
    out, _ = selected
    page = (out / "report.md").read_text()
    for name in ("coverage", "utility", "pareto", "rank_frequency"):
        assert f"figures/{name}.png" in page
        assert (out / "figures" / f"{name}.png").stat().st_size > 10_000
        assert (out / "figures" / f"{name}.svg").exists()
    assert "the data set's responses" in page and "fewer tokens" in page


def test_the_same_input_gives_the_same_vocabulary(conversations, selected, tmp_path, monkeypatch):
    out, _ = selected
    done = select_here(monkeypatch, conversations, tmp_path / "again", "select.k_min=5", "select.trials=20")
    assert done.returncode == 0, done.stderr
    again, first = (json.loads((f / "summary.json").read_text()) for f in (tmp_path / "again", out))
    assert again == first
    assert not (tmp_path / "again" / "exports" / "draft").exists()


def test_a_mixture_with_a_corpus_ranks_and_is_judged_on_both(conversations, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"prompt": f"q{i}", "response": "zebra quartz"}) + "\n" for i in range(30))
    )
    done = select_here(
        monkeypatch,
        conversations,
        tmp_path / "out",
        "+domain@corpora.general=jsonl",
        "corpora.general.name=general",
        f"corpora.general.path={corpus}",
        "select.ranking=[jsonl:1,general:1]",
        "select.vocab_size=12",
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "cross_domain.csv", index_col=0)
    assert list(table.columns) == ["jsonl", "general"] and list(table.index) == ["jsonl"]
    assert table.loc["jsonl", "general"] > 0.6
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["ranking"] == {"jsonl": 1, "general": 1} and summary["exported_vocab_size"] == 12


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ([], ["holds no prompts"]),
        (['{"prompt": "a", "response": "b"}', "{broken"], ["mine.jsonl, line 2", "not valid JSON"]),
        (['{"messages": [{"role": "robot", "content": "x"}]}'], ["line 1", "'robot' is unknown"]),
    ],
)
def test_a_file_that_cannot_be_used_leaves_nothing_behind(tmp_path, monkeypatch, lines, parts):
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    check_refused(select_here(monkeypatch, tmp_path / "mine.jsonl", tmp_path / "out"), parts)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.jsonl"]


def test_no_assistant_turn_anywhere_names_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a"}\n')
    done = select_here(monkeypatch, tmp_path / "mine.jsonl", tmp_path / "out", "domain.responses=dataset")
    check_refused(done, ["there is no assistant turn", "domain.responses=target"])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["select.min_coverage=1.5"], ["select.min_coverage=1.5 is impossible", "between 0 and 1"]),
        (
            ["select.min_coverage=0.999", "select.k_min=5", "select.k_max=10"],
            ["no k reaches select.min_coverage", "highest possible coverage"],
        ),
        (["select.vocab_size=60000"], ["vocabulary size 60000 is impossible", "49152"]),
        (["select.vocab_size=2"], ["vocabulary size 2 is impossible", "every draft must keep"]),
        (["select.ranking=[nosuch:1]"], ["select.ranking names nosuch"]),
        (["select.ranking=[code]"], ["select.ranking=code is impossible", "name:weight"]),
        (
            ["select.keep_scripts=[Danish]"],
            ["select.keep_scripts=Danish is impossible", "Arabic, ", "Cyrillic, "],
        ),
        (["select.eagle3_config=nosuch.json"], ["nosuch.json cannot be read"]),
    ],
)
def test_wrong_values_are_one_line_and_leave_nothing_behind(
    conversations, tmp_path, monkeypatch, arguments, parts
):
    check_refused(select_here(monkeypatch, conversations, tmp_path / "out", *arguments), parts)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_users_is_not_replaced(conversations, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("x")
    check_refused(select_here(monkeypatch, conversations, tmp_path), ["has no summary.json"])
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


TEXTS = {
    "English": "many birds sing in old trees near our house while the river runs to another town",
    "Danish": "fuglene synger i gamle træer nær vores hus mens åen løber videre til en øde by",
    "Russian": "птицы поют на старых деревьях около нашего дома пока река бежит к городу",
    "Greek": "τα πουλιά τραγουδούν στα παλιά δέντρα κοντά στο σπίτι μας",
    "Chinese": "鸟 儿 在 我 家 附 近 的 老 树 上 唱 歌",
}
WORDS_OF = {language: text.split() for language, text in TEXTS.items()}


@pytest.fixture(scope="module")
def many_languages(tmp_path_factory):
    """95% English, 5% in four other languages."""
    rng = random.Random(1)
    path = tmp_path_factory.mktemp("data") / "languages.jsonl"
    with path.open("w") as file:
        for number in range(800):
            others = [*WORDS_OF][1:]
            language = "English" if number % 20 else others[number // 20 % 4]
            answer = " ".join(rng.choices(WORDS_OF[language], k=30))
            row = {"prompt": f"Question {number}?", "response": answer, "language": language}
            file.write(json.dumps(row) + "\n")
    return path


def test_a_vocabulary_that_silences_a_script_or_a_language_says_so(many_languages, tmp_path, monkeypatch):
    out = tmp_path / "out"
    done = select_here(monkeypatch, many_languages, out, "select.vocab_size=70")
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    scripts = pd.read_csv(out / "coverage_by_script.csv").set_index("script")
    languages = pd.read_csv(out / "coverage_by_language.csv").set_index("language")
    assert {"Latin", "Cyrillic", "Greek", "Han"} <= set(scripts.index) and set(languages.index) == {*WORDS_OF}
    for table in (scripts, languages):
        held_out, covered = table["num_tokens_heldout"], table["coverage_heldout"]
        assert held_out.sum() == summary["num_tokens_heldout"]
        assert (held_out * covered).sum() / held_out.sum() == pytest.approx(summary["coverage_heldout"])
        assert table["share_heldout"].sum() == pytest.approx(1)
    tokenizer = load_tokenizer(resolve_tokenizer("smollm2-135m-instruct")).tokenizer
    russian = [
        row["response"]
        for line in many_languages.read_text().splitlines()
        if "Rus" in (row := json.loads(line))["language"]
    ]
    # A space can be a token of its own.
    ids = [i for text in russian for i in tokenizer.encode(text) if tokenizer.decode(i) != " "]
    assert scripts.loc["Cyrillic", ["num_tokens_heldout", "num_tokens_ranking"]].sum() == len(ids)
    page = (out / "report.md").read_text()
    below = summary["coverage_heldout"] - 0.1
    for kind, table in (("script", scripts), ("language", languages)):
        for name, covered in table["coverage_heldout"].items():
            for text in (page, " ".join(done.stdout.split())):
                assert (f"of the {kind} {name}, " in text) == (covered < below), (name, covered)
    assert scripts.loc["Cyrillic", "coverage_heldout"] < below
    assert languages.loc["Danish", "coverage_heldout"] < below < languages.loc["English", "coverage_heldout"]


def test_kept_scripts_are_covered_whole_whatever_the_text_is(many_languages, tmp_path, monkeypatch):
    out = tmp_path / "out"
    done = select_here(
        monkeypatch, many_languages, out, "select.keep_scripts=[cyrillic,Hani]", "select.coverage_weight=0"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["keep_scripts"] == ["Cyrillic", "Han"]
    assert summary["vocab_size"] == summary["num_must_keep"] > 300
    scripts = pd.read_csv(out / "coverage_by_script.csv").set_index("script")
    assert scripts.loc[["Cyrillic", "Han"], ["coverage_heldout", "coverage_ranking"]].to_numpy().min() == 1
    assert scripts.loc["Latin", "coverage_heldout"] < 0.9
    assert "Every token of Cyrillic, Han is kept" in (out / "report.md").read_text()


def test_every_job_of_a_sweep_leaves_a_folder(conversations, tmp_path):
    lines = conversations.read_text().splitlines(keepends=True)
    for name, part in (("a.jsonl", lines[:60]), ("b (1).jsonl", lines[:100])):
        (tmp_path / name).write_text("".join(part))
    done = run(
        *("-m", "task=select", "domain=jsonl", f"domain.path={tmp_path}/a.jsonl,{tmp_path}/b (1).jsonl"),
        *("select.trials=20", "select.checkpoint=false", f"results_dir={tmp_path / 'results'}"),
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 2 jobs of" in done.stderr
    summaries = (tmp_path / "results" / "vocab").glob("*/smollm2-135m-jsonl/summary.json")
    read = {path.parts[-3]: json.loads(path.read_text()) for path in summaries}
    first, second = sorted(read)
    assert first.startswith("path=") and first.endswith("_a.jsonl") and second.endswith("_b_1_.jsonl")
    sizes = [
        read[tag]["num_conversations"] + read[tag]["num_conversations_heldout"] for tag in (first, second)
    ]
    assert sizes == [60, 100]
