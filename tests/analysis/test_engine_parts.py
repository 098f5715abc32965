"""Rounds of two engines side by side: made of known parts, which must be found again."""

from dataclasses import replace

import numpy as np
import pytest

from bench.analysis.engine_parts import PARTS, parts_facts, parts_frame
from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.records import RecordWriter, ServedPartsRecord
from bench.report.of_engines import parts_figure
from bench.surface.choice import FULL, OPTIMUM, PLAIN
from tests.analysis.conftest import H100_700
from tests.analysis.synthetic import Experiment, write_run

# Of a step: the target's layers, its LM head, choice of the target's tokens, draft, and in the draft its
# choice, its logits and its LM head; then all of the worker, and the time between two arrivals.
STEPS = {
    PLAIN: (8.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0, 11.0, 14.0),
    FULL: (9.0, 2.0, 0.5, 9.0, 7.5, 7.0, 7.0, 21.0, 25.0),
    OPTIMUM: (9.0, 2.0, 0.5, 4.0, 2.5, 2.0, 1.5, 16.0, 20.0),
}
NAMES = ("forward", "postprocess", "sample", "draft", "draft_token", "draft_logits", "draft_head")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(
        tmp_path_factory.mktemp("parts") / "run", H100_700, Experiment(domains=("code",), num_prompts=4)
    )
    found = read_run(folder)
    writer = RecordWriter(folder)
    for process, factor in enumerate((1.0, 3.0)):
        for role in STEPS:
            writer.append(parts_record(found, role, process, factor))
    writer.close()
    return read_run(folder)


def parts_record(run, role: str, process: int, factor: float) -> ServedPartsRecord:
    """A prompt of 40 tokens, whose times must not count, and three rounds."""
    variant = run.variant_of("code", role)
    *parts, in_worker, round_ms = STEPS[role]
    times = {
        **dict(zip(NAMES, parts, strict=True)),
        "execute_model": in_worker - 3.0,
        "sample_tokens": 3.0,
    }
    return ServedPartsRecord(
        engine="vllm",
        domain="code",
        **variant.columns,
        process=process,
        reason="",
        round_ms=[round_ms * factor] * 3,
        num_tokens=[40, *[variant.draft_length + 1] * 3],
        parts_ms={name: [1000.0, *[ms * factor] * 3] for name, ms in times.items()},
    )


def test_parts_are_differences_and_add_up_to_the_round(run):
    found = parts_frame(run)
    vllm = found[found["engine"] == "vllm"].set_index("role").filter(regex="_ms$") / 2  # mean of 1 and 3
    assert vllm.loc[PLAIN].tolist() == pytest.approx([14, 10, 0.5, 0, 0, 0, 0, 0.5, 3])
    assert vllm.loc[FULL].tolist() == pytest.approx([25, 11, 0.5, 1.5, 7, 0, 0.5, 0.5, 4])
    assert vllm.loc[OPTIMUM].tolist() == pytest.approx([20, 11, 0.5, 1.5, 1.5, 0.5, 0.5, 0.5, 4])
    assert found[list(PARTS)].sum(axis=1).tolist() == pytest.approx(found["round_ms"].tolist())
    assert set(found.loc[found["engine"] == "vllm", "num_rounds"]) == {6}


def test_parts_of_our_loop_are_its_laps(run):
    own = parts_frame(run).set_index(["engine", "role"]).loc["own"]
    variant = run.variant_of("code", OPTIMUM)
    decodes = run.decodes["code"][variant].values()
    num_rounds = sum(len(decode.accepted) for decode in decodes)
    head = [ms for decode in decodes for ms in decode.laps_ms["lm_head"]]
    assert own.loc[OPTIMUM, "part_head_ms"] == pytest.approx(np.median(head) * len(head) / num_rounds)
    assert own.loc[OPTIMUM, "num_rounds"] == num_rounds and own.loc[OPTIMUM, "part_scatter_ms"] == 0
    assert own.loc[PLAIN, "part_head_ms"] == 0 and own.loc[PLAIN, "part_verify_ms"] > 0


def test_the_sentences_say_what_a_trimmed_vocabulary_costs(run):
    text = " ".join(parts_facts(run, parts_frame(run), "code"))
    # 2 * (7 - 1.5) of 2 * 25; scattering 2 * 0.5 over gamma = 3, and 1 / 11 of what is saved.
    assert "takes 11.0 ms of LM head off a round of 50.0 ms (22%)" in text
    assert "1.00 ms a round for writing" in text and "(333 and 333 us a drafted token)" in text
    assert "costs 9% of what" in text and text.startswith("own: trimming takes")


@pytest.mark.parametrize(
    ("device", "ours", "is_said"), [("cpu", 2, True), ("cpu", 1, False), ("cuda", 2, False)]
)
def test_fewer_threads_are_said(run, device, ours, is_said):
    records = [replace(record, num_threads=1) for record in run.served_parts["code"]]
    environment = run.environment | {"device": device, "num_threads": ours}
    other = replace(run, environment=environment, served_parts={"code": records})
    text = " ".join(parts_facts(other, parts_frame(run), "code"))
    assert ("vllm computes with 1 of the CPU's threads and our loop with 2" in text) == is_said


def test_an_engine_without_parts_says_why(run):
    records = [replace(record, reason="no scopes") for record in run.served_parts["code"]]
    without = replace(run, served_parts={"code": records})
    assert parts_frame(without).empty
    assert Findings.of(without).part_facts("code") == ["What a round consists of is not known: no scopes."]


def test_bars_are_as_long_as_rounds(run):
    (axis,) = parts_figure(Findings.of(run)).axes
    assert axis.get_xlabel() == "median time of a round (ms)"
    ends: dict[float, float] = {}
    for bar in axis.patches:
        ends[bar.get_y()] = max(ends.get(bar.get_y(), 0.0), bar.get_x() + bar.get_width())
    assert sorted(ends.values()) == pytest.approx(sorted(parts_frame(run)["round_ms"]))
