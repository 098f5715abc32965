"""Text on the command line is taken as it stands: through `python -m bench`, through make, and in sweeps."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bench.cli import CONF, arrange, jobs_of, quote_text
from bench.config import Config
from tests.test_cli import check_refused, run

ROOT = CONF.parent

# What a user gives as the path of a corpus, and as what it arrives where that is something else.
HOME = Path.home()
TEXTS: dict[str, str | None] = {
    **{text: text for text in (
        "data (1).jsonl", "(", ")", "a=b", "=", "==x", ":=", "#", "a#b.jsonl", "x[1]", "[a,b]",
        "{instruction}", "{a} {b}: {c}", "{", "it's", 'say "hi"', "'", '"', "'a' or 'b'",
        "übergröße/straße.jsonl", "データ.jsonl", "会話", "😀", "1e3", "1.50", "007", "0x10", "true", "No",
        "NaN", "inf", "a b  c", "trailing ", "a,b", ",", "$HOME", "$", "a$$b", "$(x)", "${", "${HOME}",
        "a\\b", "\\", "tail\\", "\\'", "C:\\new\\table", "a:b", "a;b", "&", "a|b", "<x>", "`id`", "!", "^",
        "a\tb", "%s", "*", "?", "-x", "--help", "a~", "choice(a,b)",
    )},
    "~/mine (1).jsonl": f"{HOME}/mine (1).jsonl",
    "~": str(HOME),
    "~nobody-of-this-name/x": "~nobody-of-this-name/x",
    # Hydra's own ways to write a value stay possible.
    "null": None,
    "'a, b'": "a, b",
    '"it\'s"': "it's",
    "${results_dir}/x": "results/x",
}  # fmt: skip
KEYS = {text: f"corpora.c{number}.path" for number, text in enumerate(TEXTS)}
ARGUMENTS = [f"{key}={text}" for text, key in KEYS.items()]
CORPORA = [f"+domain@{key.removesuffix('.path')}=code" for key in KEYS.values()]


def composed(arguments: list[str]) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose("config", arguments))


def arrived(arguments: list[str]) -> dict[str, str | None]:
    corpora = composed([*CORPORA, *arguments]).corpora
    return {text: corpora[key.split(".")[1]].path for text, key in KEYS.items()}


def through_make(folder: Path, target: str, *arguments: str) -> list[str]:
    """What make calls instead of Python, and with which arguments."""
    (folder / ".installed").touch()
    stub = folder / "python"
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    stub.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", code])} "$@"\n')
    stub.chmod(0o755)
    command = ["make", "--silent", target, f"VENV={folder}", f"PY={stub}", *arguments]
    # Tests that make runs inherit what make itself was given.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    received = json.loads(done.stdout)
    assert received[:2] == ["-m", "bench"]
    return received[2:]


def test_text_arrives_as_it_was_given():
    assert len(TEXTS) > 40
    assert arrived(arrange(ARGUMENTS)) == TEXTS


def test_text_arrives_as_it_was_given_through_make(tmp_path):
    received = through_make(tmp_path, "bench", *ARGUMENTS)
    assert sorted(received) == sorted(ARGUMENTS)
    assert arrived(arrange(received)) == TEXTS


def test_text_arrives_as_it_was_given_in_a_process():
    done = run(*CORPORA, *ARGUMENTS, "--cfg", "job")
    assert done.returncode == 0, done.stderr
    corpora = yaml.safe_load(done.stdout)["corpora"]
    for text, key in KEYS.items():
        # Printed before interpolations and homes are expanded.
        if "${" not in text and not text.startswith("~"):
            assert corpora[key.split(".")[1]]["path"] == TEXTS[text]


TEXT_KEYS = (
    "domain.columns.text", "domain.hub.config", "domain.hub.split", "domain.hub.revision",
    "pair.target_revision", "pair.draft_revision",
)  # fmt: skip
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    # These are Hydra's own ways to write a value.
    lambda text: (
        text.lower() != "null" and not (text[0] == text[-1] and text[0] in "'\"") and "${" not in text
    )
)


@settings(deadline=None, max_examples=20)
@given(st.lists(ANY_TEXT, min_size=len(TEXT_KEYS), max_size=len(TEXT_KEYS)))
@example(["\\${run}", "a\\\\${b", "${}", "$${out}", "a'\\", "\\'${x"])
def test_any_text_arrives_as_it_was_given(texts):
    config = composed([quote_text(f"{key}={text}") for key, text in zip(TEXT_KEYS, texts, strict=True)])
    found = [config.domain.columns.text, *list(vars(config.domain.hub).values())[1:]]
    assert [*found, config.pair.target_revision, config.pair.draft_revision] == [
        # An interpolation stays one, and what escapes it stays before it.
        {"\\${run}": "${run}", "$${out}": "$None"}.get(text, text)
        for text in texts
    ]


def test_a_list_of_texts_and_the_runs_of_make(tmp_path):
    texts = ["a (1)", "1e3", "data/#2", "c=d", "~/x", "it's"]
    config = composed(arrange([f"runs=[{','.join(texts)}, 'e,f', 2048]"]))
    assert config.runs == ["a (1)", "1e3", "data/#2", "c=d", f"{HOME}/x", "it's", "e,f", "2048"]
    received = through_make(tmp_path, "report", "RUNS=A(1) $x ~/y z,#", "ARGS=domain='a b'")
    assert received == ["task=report", 'runs=["A(1)","$x","~/y","z,#"]', "domain=a b"]
    assert composed(arrange(received[1:2])).runs == ["A(1)", "$x", f"{HOME}/y", "z,#"]
    assert composed(arrange(["runs=[]"])).runs == []


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        # Every piece of a sweep by itself; a comma inside quotes is text.
        ("domain.path=a.jsonl,b.jsonl", "domain.path=a.jsonl,b.jsonl"),
        ("domain.path=a (1).jsonl, 1e3", "domain.path='a (1).jsonl','1e3'"),
        ("domain.path='a,b',c", "domain.path='a,b',c"),
        ("domain.path=it's,c", r"domain.path='it\'s',c"),
        ("domain.path=a,null", "domain.path=a,null"),
        ("domain.path=choice(a,b)", "domain.path=choice(a,b)"),
        ("runs=[a (1),b],[c]", "runs=['a (1)',b],[c]"),
        ("hydra.sweep.dir=~/s (1)", f"hydra.sweep.dir='{HOME}/s (1)'"),
        # What is not text is Hydra's to read.
        ("gpu=0,12,auto", "gpu='0','12',auto"),
        ("gpu=range(0,2)", "gpu='0','1'"),
        ("domain=choice(code,5,'null')", "domain=code,'5','null'"),
        ("domain=glob(c*)", "domain=glob(c*)"),
        ("measure.seed=range(1,4)", "measure.seed=range(1,4)"),
        ("measure.draft_lengths=[1,2],[3]", "measure.draft_lengths=[1,2],[3]"),
        ("hydra/launcher=gpus", "hydra/launcher=gpus"),
        ("+domain@corpora.c=jsonl", "+domain@corpora.c=jsonl"),
        ("+domain@corpora.c=5", "+domain@corpora.c='5'"),
        ("~experiment", "~experiment"),
    ],
)
def test_sweeps(argument, quoted):
    assert arrange(["-m", argument]) == ["-m", quoted]


def test_without_a_sweep_a_comma_is_text():
    assert arrange(["domain.path=a,b"]) == ["domain.path='a,b'"]


def test_a_job_of_a_sweep_reads_what_its_sweep_was_given():
    """Hydra writes the values of a job anew, which its process then reads from its own command line."""
    given = ["domain.path=a (1).jsonl,'b,c',{x}", "run=1e3", "runs=[x y,z]", "out=${results_dir}/$"]
    jobs = jobs_of(arrange(["-m", *given])[1:])
    found = [composed(arrange(job)) for job in jobs]
    assert [config.domain.path for config in found] == ["a (1).jsonl", "b,c", "{x}"]
    assert {(config.run, *config.runs, config.out) for config in found} == {("1e3", "x y", "z", "results/$")}


@pytest.mark.parametrize(
    "key",
    ["domain.path", "domain.hub.id", "results_dir", "out", "run", "predict.run", "predict.calibration",
     "predict.coverage", "draft.coverage", "select.eagle3_config", "pair.target", "pair.draft"],
)  # fmt: skip
def test_a_home_is_expanded_and_an_empty_path_refused_in_every_key_of_a_path(key):
    found = composed(arrange([f"{key}=~/x"]))
    for name in key.split("."):
        found = getattr(found, name)
    assert found == f"{HOME}/x"
    if key != "pair.target":  # A draft alone has no target.
        with pytest.raises(Exception, match=rf"{key}='' is impossible: it must be a path"):
            composed(arrange([f"{key}="]))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["(x"], ["cannot read '(x'", "KEY=VALUE"]),
        (["domain.path(=x"], ["cannot read 'domain.path(=", "KEY=VALUE"]),
        (["domain={x}"], ["domain"]),
        (["domain=a (1"], ["unknown domain 'a (1'", "humaneval"]),
        (["measure.num_prompts=(3)"], ["measure.num_prompts='(3)': it must be a whole number"]),
        (["out="], ["out='' is impossible"]),
        (["domain.pth=a(1)"], ["unknown key", "did you mean path?"]),
        (["+measure.num_promts=a(1)"], ["unknown key 'measure.num_promts'", "did you mean num_prompts?"]),
        (["+nosuch={x}"], ["unknown key 'nosuch'", "top-level keys are pair, domain"]),
        (["measure.seed=1,2"], ["measure.seed=1,2 is several values", "-m runs one job for each"]),
        (["out=${oc.env:NOPE}"], ["Environment variable 'NOPE' not found"]),
    ],
)
def test_what_cannot_be_read_is_one_line(arguments, parts, tmp_path):
    check_refused(run(f"results_dir={tmp_path}", "task=fit", *arguments), parts)
