import json
from dataclasses import replace

import pytest
import yaml

from bench.analysis.facts import origin
from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.config import POOLED
from bench.records import FILE_NAME, RecordWriter
from bench.report.markdown import write_markdown
from bench.report.of_run import run_report
from bench.variant import Variant
from bench.vocab.ranking import BY_ID, PUBLISHED
from tests.report.synthetic import FULL, PROMPTS, probe, replayed, write_run
from tests.synthetic_run import append_records


def answer_of(folder):
    (answer,) = Findings.of(read_run(folder)).answers
    return answer


def test_a_faster_trimmed_draft_is_advised(tmp_path):
    answer = answer_of(write_run(tmp_path, {100: 5.5, 10: 0.5}))
    # The same by parts and by whole decodes; two prompts are too few to choose on one and judge on the other.
    assert answer.over_full.estimate.value == pytest.approx(99 / 69)
    assert answer.over_full.decoded.value == pytest.approx(99 / 69)
    assert answer.over_full.expected == pytest.approx(99 / 69)
    assert answer.over_full.judged_apart is None and answer.over_full.is_as_predicted
    assert answer.sentence() == (
        "code: trim to 10 tokens (90.0% fewer), gamma = 3: 1.43x [1.43, 1.43] as fast as the full-vocabulary "
        "draft, 2.32x [2.32, 2.32] as fast as plain decoding."
    )
    details = " ".join(answer.details())
    for part in (
        "from 10 to 10 tokens",
        "k* = 20",
        "4.6% slower",
        "a round takes 69.4% of its time with the full vocabulary, and the head 16.7% of its own",
        "it keeps 100.0%",
    ):
        assert part in details, part


@pytest.mark.parametrize(
    ("decoding", "said"),
    [
        (None, ""),
        ({"execution": "eager"}, ""),
        ({"execution": "compiled"}, "; rounds were compiled"),
        ({"execution": "eager", "not_compiled": "numba is not installed"},
         "; rounds were not compiled: numba is not installed"),
    ],
)  # fmt: skip
def test_a_report_says_whether_rounds_were_compiled(decoding, said, tmp_path):
    run = read_run(write_run(tmp_path, {100: 5.5, 10: 0.5}))
    run = replace(run, environment={**run.environment, "decoding": decoding})
    assert origin(run).split("started")[1].split(".")[0].partition("runner")[2] == said


def test_fewer_decodes_than_replays_have_their_own_prediction_beside_them(tmp_path):
    folder = write_run(tmp_path, {100: 5.5, 10: 0.5})
    assert answer_of(folder).beside == ""
    writer = RecordWriter(folder)
    for source, lowest in (("code", 101), ("pooled", 101)):  # of this answer no size drafts a token right
        writer.append(replayed("p3", source, lowest, 3))
    writer.close()
    found = Findings.of(read_run(folder))
    (answer,) = found.answers
    assert (answer.num_prompts, answer.num_replayed) == (2, 3)
    assert answer.over_plain.estimate.value < 1.6 and answer.over_plain.expected == pytest.approx(160 / 69)
    assert answer.beside == (
        "The estimate takes acceptance from 3 prompts; 2 of them were decoded. For what these 2 decodes "
        "wrote it expects 1.43x over the full-vocabulary draft, 2.32x over plain decoding and 115.9 tokens/s."
    )
    captions = {picture.name: picture.caption for picture in run_report(found).pictures()}
    assert "(n = 3 prompts)" in captions["acceptance"] and "(n = 3 prompts)" in captions["position"]
    assert "(n = 2 prompts)" in captions["speedup"]
    assert "3 held-out prompts replayed, 2 of them probed and decoded." in found.facts("code")[0]
    assert set(found.cross["num_prompts"]) == {3}


def test_more_prompts_are_probed_than_decoded(tmp_path):
    folder = write_run(tmp_path, {100: 5.5, 10: 0.5})
    writer = RecordWriter(folder)
    for source, lowest in (("code", 10), ("pooled", 20)):
        writer.append(replayed("p3", source, lowest, 3))
    writer.append(probe("p3", FULL, 3, 11.5))
    writer.append(probe("p3", 10, 3, 0.5))
    writer.append(probe("p4", FULL, 3, 100.0))  # where an interrupted run ended
    writer.close()
    found = Findings.of(read_run(folder))
    (answer,) = found.answers
    assert (answer.num_prompts, answer.num_probed, answer.num_replayed) == (2, 3, 3)
    # The whole head takes 7.5 ms on average, and a round 6 ms more than in what was decoded.
    assert answer.over_full.estimate.value == pytest.approx((99 + 2 * 6) / 69)
    assert answer.over_full.decoded.value == pytest.approx(99 / 69)
    captions = {picture.name: picture.caption for picture in run_report(found).pictures()}
    assert "(n = 3 prompts, several steps each)" in captions["draft_latency"]
    assert "(n = 2 prompts)" in captions["speedup"]
    assert "3 held-out prompts replayed, 3 of them probed, 2 decoded." in found.facts("code")[0]
    write_markdown(run_report(found), tmp_path / "report.md")
    assert "prompts: 3 replayed, 3 probed, 2 decoded" in (tmp_path / "report.md").read_text("utf-8")


def test_a_k_of_the_paper_that_is_faster_is_called_faster(tmp_path):
    folder = write_run(tmp_path, {100: 5.5, 10: 0.5})
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    for values in lines:
        if values["kind"] == "plan":
            values["variants"] = [[FULL, 0, "plain"], [FULL, 3, "full"], [20, 3, "optimum"], [10, 3, "paper"]]
    (folder / FILE_NAME).write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert "k* = 10; with its best gamma, 3, it is predicted 4.8% faster than what is advised" in " ".join(
        answer_of(folder).details()
    )


def test_the_vocabulary_that_needs_no_text_stands_beside_the_advised(tmp_path):
    folder = write_run(tmp_path, {100: 5.5, 10: 0.5})
    assert "which need no text" not in " ".join(answer_of(folder).details())
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    # Under the order by id, the draft is right as often as under the ranking.
    by_id = [line | {"source": BY_ID} for line in lines if line["kind"] == "replay"]
    (folder / FILE_NAME).write_text("".join(json.dumps(line) + "\n" for line in [*lines, *by_id]))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["vocab"] = {**config.get("vocab", {}), "id_prefix": 50}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    answer = answer_of(folder)
    found = answer.advice.baselines[0]
    assert found.variant.draft_length == 3
    # Heads of 50 tokens take a time between those of 10 and of all 100, and the draft accepts the same.
    assert 1 < found.over_full < answer.over_full.estimate.value
    gain = found.advised_over_it
    assert found.over_full * gain.value == pytest.approx(answer.over_full.estimate.value)
    assert gain.ci_low <= gain.value <= gain.ci_high
    told = (
        f"The ids below 50, which need no text, k = {found.variant.vocab_size} with gamma = 3, are predicted"
    )
    assert told in " ".join(answer.details())


def test_other_choices_of_tokens_stand_beside_the_advised(tmp_path):
    folder = write_run(tmp_path, {100: 5.5, 10: 0.5})
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    replays = [line for line in lines if line["kind"] == "replay"]
    # Under the published list and under that of all domains, the draft needs 20 tokens to be right.
    listed = [line | {"source": PUBLISHED} for line in replays if line["source"] == POOLED]
    (folder / FILE_NAME).write_text("".join(json.dumps(line) + "\n" for line in [*lines, *listed]))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["vocab"] = {**config.get("vocab", {}), "published": "a-draft"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    path = folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"published_size": 50}))
    answer = answer_of(folder)
    published, together = answer.advice.baselines
    assert (published.variant.vocab_size, together.variant.vocab_size) == (50, 10)
    # Heads of 50 tokens accept what the advised one does and cost more; the other has 10 of 20 tokens.
    assert together.over_full < 1 < published.over_full < answer.over_full.estimate.value
    for found in (published, together):
        product = found.over_full * found.advised_over_it.value
        assert product == pytest.approx(answer.over_full.estimate.value)
    details = " ".join(answer.details())
    assert "The tokens of a-draft, k = 50 with gamma = " in details
    assert "The tokens most frequent in all domains together, k = 10 with gamma = " in details


def test_halves_are_of_the_answers_that_leave_something_to_draft(tmp_path):
    folder = write_run(tmp_path, {100: 5.5, 10: 0.5})
    added = ["p1x", "p3", "p4", "p5", "p6", "p7"]
    append_records(folder, [probe(p, size, 3, ms) for p in added for size, ms in ((FULL, 5.5), (10, 0.5))])
    append_records(folder, [probe(p, FULL, 0, 0.0) for p in (*PROMPTS, *added)])
    # In the order of their names, every second answer is one token long.
    answers = {p: replayed(p, "code", 10, 3) for p in added}
    cut = {p: replace(answers[p], token_ids=[7], low=[], high=[]) for p in ("p1x", "p3", "p5", "p7")}
    append_records(folder, (answers | cut).values())
    first, second = answer_of(folder).advice.surfaces.halves("code")
    assert len(first.surface.prompt_left_out) + len(second.surface.prompt_left_out) == 4


def test_other_tokens_of_the_advised_size_are_compared_at_the_advised_draft_length(tmp_path):
    folder = write_run(tmp_path, {100: 5.5, 10: 0.5})
    append_records(folder, [probe(p, size, 1, ms) for p in PROMPTS for size, ms in ((FULL, 5.5), (10, 0.5))])
    (together,) = (answer := answer_of(folder)).advice.baselines
    # Ten of the tokens of all domains are never right, so that short drafts would be the fastest.
    own, surface = answer.advice.surfaces.beside("code", POOLED)
    assert surface.best_draft_length(10) == 1 and own.best_draft_length(10) == 3
    assert together.variant == answer.best == Variant(10, 3)


def test_a_trimmed_draft_that_accepts_less_is_advised_against(tmp_path):
    folder = write_run(tmp_path, {100: 0.5, 10: 0.5})
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    for values in lines:
        if values["kind"] == "replay":
            values["low"] = [[50] * 3] * 8  # a token a round
        if values["kind"] == "decode" and values["vocab_size"] < FULL and values["draft_length"]:
            # A token a round: 8 rounds of heads, selections, layers and verification, 7 extensions.
            values |= {"decode_ms": 4 + 8 * (3 * 0.5 + 3 * 0.5 + 2 * 2 + 24) + 7 * 3, "accepted": [0] * 8}
    (folder / FILE_NAME).write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert answer_of(folder).sentence().startswith("code: do not trim: the best trimmed draft, 10 tokens")


def test_decodes_that_contradict_the_estimate_are_named(tmp_path):
    # A head never gets cheaper as it grows: the estimate does not believe it, and the decodes disagree.
    answer = answer_of(write_run(tmp_path, {100: 0.5, 10: 2.5}))
    assert answer.sentence().startswith(
        "code: INVALID: decodes contradict the speed over the full-vocabulary"
    )
    assert not answer.over_full.is_as_predicted and "differ" in answer.why_apart


def test_no_difference_is_ambiguous(tmp_path):
    assert answer_of(write_run(tmp_path, {100: 0.5, 10: 0.5})).sentence().startswith("code: ambiguous")


def test_speculation_that_does_not_pay_is_said(tmp_path):
    answer = answer_of(write_run(tmp_path, {100: 90.0, 10: 60.0}))
    assert answer.sentence().endswith("speculation itself is not a clear gain here.")


def test_the_full_vocabulary_may_be_the_optimum(tmp_path):
    folder = write_run(tmp_path, {100: 0.5, 10: 2.5})
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    for values in lines:
        if values["kind"] == "plan":
            values["variants"] = [[FULL, 0, "plain"], [FULL, 3, "full+optimum"], [20, 3, "paper"]]
    (folder / FILE_NAME).write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert answer_of(folder).sentence().startswith("code: do not trim: the full vocabulary is fastest")


def test_decoding_and_prediction_that_differ_have_the_reason_beside_them(tmp_path):
    folder = write_run(tmp_path, {100: 5.5, 10: 0.5})
    answer = answer_of(folder)
    assert answer.why_apart == ""
    assert answer.over_full.expected == pytest.approx(99 / 69)
    assert answer.over_plain.expected == pytest.approx(160 / 69)
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    for values in lines:
        if values["kind"] == "decode" and values["vocab_size"] == 10:
            # Twice the time, and three rounds instead of two.
            values |= {"decode_ms": 138.0, "accepted": [3, 1, 1]}
    (folder / FILE_NAME).write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert answer_of(folder).why_apart == (
        "Decoding and prediction differ: predicted tokens/s are off by +100.0% for this draft (+50.0% "
        "through acceptance) and +0.0% for the full vocabulary (+0.0% through acceptance); the rest is "
        "latency."
    )


def test_a_figure_that_cannot_be_is_a_doubt(tmp_path):
    found = Findings.of(read_run(write_run(tmp_path)))
    assert [doubt.code for doubt in found.doubts] == []
    found = Findings.of(found.run)
    found.__dict__["summary"] = Findings.of(found.run).summary.assign(acceptance_rate=1.25)
    (doubt,) = found.doubts
    assert (doubt.code, doubt.what) == (
        "impossible_value",
        "the table summary says what cannot be: acceptance_rate is 1.25 in row 0",
    )


def test_the_worst_that_another_domain_s_vocabulary_does_is_said(tmp_path):
    # The pool's vocabulary of 20 tokens on code: 99 ms over 69 + 6 * 5 / 9.
    assert Findings.of(read_run(write_run(tmp_path))).across == (
        "At worst, code under the vocabulary chosen on pooled (k = 20, gamma = 3) is predicted to run at "
        "1.37x the speed of the full vocabulary."
    )
