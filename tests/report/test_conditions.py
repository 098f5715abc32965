"""Conditions and their limits: what is past one, which figures that touches, and where a reader sees it."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from bench.analysis.conditions import conditions_of, limits_of
from bench.analysis.figures import Gain
from bench.analysis.findings import Findings
from bench.analysis.run import read_run
from bench.config import LimitsConfig
from bench.errors import ConfigError, InvalidVerdictError, OutputError
from bench.records import FILE_NAME
from bench.report.tasks import render, report_runs
from bench.stats.estimates import Estimate
from bench.telemetry.samples import Samples
from bench.variant import Variant
from tests.report.synthetic import FULL, write_run

PERIOD_S = 0.1


@pytest.fixture
def run(tmp_path):
    return read_run(write_run(tmp_path / "run"))


def loaded(run, shares):
    """The run in stretches of a tenth of a second, with others taking so much of the CPUs in each."""
    records = [*run.probes["code"], *(r for by in run.decodes["code"].values() for r in by.values())]
    ends = np.linspace(0, PERIOD_S * len(shares), len(records) + 1)
    times = {id(r): {"start_s": a, "end_s": b} for r, a, b in zip(records, ends, ends[1:], strict=False)}
    found = replace(
        run,
        probes={"code": [replace(r, **times[id(r)]) for r in run.probes["code"]]},
        decodes={
            "code": {
                variant: {prompt: replace(r, **times[id(r)]) for prompt, r in by_prompt.items()}
                for variant, by_prompt in run.decodes["code"].items()
            }
        },
    )
    rows = [{"time_s": PERIOD_S * (i + 0.5), "cpu_load_of_others": x} for i, x in enumerate(shares)]
    found.__dict__["samples"] = Samples(rows, ["the run ended"])
    return found


def answer_of(run):
    (answer,) = Findings.of(run).answers
    return answer


def named(answer, name):
    return next(item for item in answer.conditions if item.name == name)


def slowed(run, factor):
    """Four prompts, the later two of which met a machine whose plain decoding was slower by this factor."""
    decodes = {}
    for variant, by_prompt in run.decodes["code"].items():
        decodes[variant] = {f"p{i}": replace(by_prompt["p1"], prompt_id=f"p{i}", order=i) for i in range(4)}
    for i, record in enumerate(decodes[run.plain].values()):
        steps = [20.0 * (factor if i > 1 else 1)] * 8
        decodes[run.plain][f"p{i}"] = replace(record, laps_ms={"verify": steps}, decode_ms=sum(steps))
    replays = {
        source: {f"p{i}": replace(by_prompt["p1"], prompt_id=f"p{i}") for i in range(4)}
        for source, by_prompt in run.replays["code"].items()
    }
    return replace(run, decodes={"code": decodes}, replays={"code": replays})


def test_a_quiet_run_is_valid(run):
    answer = answer_of(loaded(run, [0.01] * 30))
    assert answer.decision.value == "trim" and answer.invalid == []
    assert named(answer, "foreign_load").value == 0.0


@pytest.mark.parametrize(
    ("ends", "decision", "begins"),
    [
        ((1.02, 1.10), "trim", "code: trim to 10 tokens"),
        ((0.98, 1.10), "ambiguous", "code: ambiguous: the best trimmed draft, 10 tokens"),
        ((0.90, 0.98), "do_not_trim", "code: do not trim: the best trimmed draft, 10 tokens"),
    ],
)
def test_a_trimmed_draft_must_beat_the_whole_vocabulary_at_its_own_draft_length_too(
    run, ends, decision, begins
):
    gain = Gain(Estimate(sum(ends) / 2, *ends), None, None, None)
    answer = replace(answer_of(run), full_best=Variant(FULL, 1), over_full_best=gain)
    assert answer.decision.value == decision and answer.sentence().startswith(begins)
    assert (
        "1.43x [1.43, 1.43] as fast as the full-vocabulary draft with the same gamma, "
        f"{gain.estimate.value:.2f}x [{ends[0]:.2f}, {ends[1]:.2f}] as it is with its best, gamma = 1, "
    ) in answer.sentence()


# The middle third of the run under a busy loop on every core: others take half of the CPUs.
BUSY = [0.01] * 10 + [0.5] * 10 + [0.01] * 10


def test_a_busy_loop_in_the_middle_third_makes_every_figure_invalid(run):
    answer = answer_of(loaded(run, BUSY))
    assert answer.decision.value == "invalid" and "trim" not in answer.sentence().lower()
    assert answer.sentence() == (
        "code: INVALID: other programs took more than 25% of the CPUs in 33% of the time "
        "(limits.foreign_load is 10%); end other programs, and measure again."
    )
    assert not any(answer.is_valid(f) for f in ("tokens_per_s", "over_plain", "over_full", "prediction"))


def test_a_disturbed_domain_spoils_the_others_too(run):
    """Domains take turns, and share the estimate of what heads cost."""
    quiet, end_s = loaded(run, [0.01] * 30), 30 * PERIOD_S
    later = [replace(r, start_s=r.start_s + end_s, end_s=r.end_s + end_s) for r in quiet.probes["code"]]
    both = replace(
        quiet,
        probes={**quiet.probes, "writing": later},
        decodes={**quiet.decodes, "writing": {}},
    )
    samples = [
        {"time_s": end_s + PERIOD_S * (i + 0.5), "cpu_load_of_others": x} for i, x in enumerate([0.5] * 30)
    ]
    both.__dict__["samples"] = Samples([*quiet.samples.rows, *samples], ["the run ended"])
    found = {c.name: c for c in conditions_of(both, "code", {}, LimitsConfig())}["foreign_load"]
    assert found.is_exceeded and "of the time of writing" in found.what


def test_load_between_measurements_counts_too(run):
    """A busy loop makes the replays between them slow, so that few measurements may fall into it."""
    busy = loaded(run, [0.01] * 20 + [0.5] * 20 + [0.01] * 20)
    first, last = busy.probes["code"][0], busy.probes["code"][-1]
    around = [replace(first, start_s=0.0, end_s=2.0), replace(last, start_s=4.0, end_s=6.0)]
    found = replace(busy, probes={"code": around}, decodes={"code": {}})
    found.__dict__["samples"] = busy.samples
    (load,) = [c for c in conditions_of(found, "code", {}, LimitsConfig()) if c.name == "foreign_load"]
    assert load.is_exceeded and load.value == pytest.approx(1 / 3)
    assert load.what.endswith("33% of the time from the first measurement to the last")


def test_short_disturbances_and_light_load_are_borne(run):
    # A job of a second now and then, and an editor that takes a tenth of the machine.
    assert answer_of(loaded(run, [0.1] * 38 + [0.9] * 2)).decision.value == "trim"


def test_load_on_the_cpus_does_not_judge_a_gpu(run):
    on_gpu = replace(loaded(run, BUSY), environment={**run.environment, "cuda": {"driver": "580"}})
    on_gpu.__dict__["samples"] = loaded(run, BUSY).samples
    assert answer_of(on_gpu).decision.value == "trim"


def test_drift_leaves_the_ratio_of_interleaved_drafts_alone(run):
    answer = answer_of(slowed(run, 1.34))
    assert named(answer, "drift").value == pytest.approx(0.34)
    assert answer.decision.value == "trim" and answer.is_valid("over_full")
    assert not answer.is_valid("over_plain") and not answer.is_valid("tokens_per_s")
    sentence = answer.sentence()
    assert sentence.startswith("code: trim to 10 tokens (90.0% fewer), gamma = 3: 1.43x [1.43, 1.43] as fast")
    assert (
        "x as fast as plain decoding" not in sentence
        and (
            "The speed over plain decoding is INVALID: plain decoding of code became 34% slower during the "
            "run (limits.drift is 20%); warm the machine up, keep its clocks fixed, and measure again"
        )
        in sentence
    )
    assert answer_of(slowed(run, 1.01)).invalid == []


def test_measurements_that_were_disturbed(run):
    probes = [replace(record, num_repeats=1) for record in run.probes["code"]]
    answer = answer_of(replace(run, probes={"code": probes}))
    assert named(answer, "disturbed").value == pytest.approx(4 / 12)
    assert answer.decision.value == "invalid"


@pytest.mark.parametrize(("num", "is_valid"), [(1, True), (4, False)])
def test_a_gpu_that_is_slowed_down_touches_what_its_clock_does(run, num, is_valid):
    found = loaded(run, [0.0] * 20)
    for place, row in enumerate(found.samples.rows):
        row["throttle_reasons"] = ["sw_thermal"] if place < num else ["idle"]
    answer = answer_of(found)
    assert answer.is_valid("over_plain") is is_valid and answer.is_valid("over_full")


def gain(estimate=(1.2, 1.1, 1.3), decoded=None, expected=None):
    return Gain(Estimate(*estimate), None, Estimate(*decoded) if decoded else None, expected)


@pytest.mark.parametrize(
    ("of_full", "past"),
    [
        (gain(), []),
        (gain((1.2, 0.9, 1.6)), ["half_width"]),
        (gain((1.2, 0.0, float("inf"))), ["half_width"]),
        (gain(decoded=(1.2, 1.15, 1.25), expected=1.2), []),
        (gain(decoded=(1.2, 1.15, 1.25), expected=1.3), []),  # 4% outside
        (gain(decoded=(1.2, 1.15, 1.25), expected=1.4), ["residual"]),
        (gain(decoded=(1.2, 1.15, 1.25), expected=1.0), ["residual"]),
    ],
)
def test_a_wide_interval_and_decodes_that_contradict_touch_their_own_speedup(run, of_full, past):
    found = conditions_of(run, "code", {"over_full": of_full, "over_plain": gain()}, LimitsConfig())
    exceeded = [item for item in found if item.is_exceeded]
    assert [item.name for item in exceeded] == past
    assert all("over_plain" not in item.touches for item in exceeded)


def test_the_residual_is_the_distance_from_the_interval_of_the_decodes():
    assert gain(decoded=(1.2, 1.0, 1.25), expected=1.5).residual == pytest.approx(0.2)
    assert gain(decoded=(1.2, 1.1, 1.25), expected=1.0).residual == pytest.approx(0.1)
    assert gain(decoded=(1.2, 1.1, 1.25), expected=1.1).residual == 0
    assert gain().residual is None and gain().is_as_predicted


def test_limits_are_those_of_the_run_and_null_judges_nothing(run):
    busy = loaded(run, BUSY)
    lax = replace(busy, config={**run.config, "limits": {"foreign_load": 0.5}})
    lax.__dict__["samples"] = busy.samples
    assert limits_of(lax) == LimitsConfig(foreign_load=0.5)
    assert answer_of(lax).decision.value == "trim"
    off = replace(lax, config={**run.config, "limits": {"foreign_load": None}})
    off.__dict__["samples"] = busy.samples
    assert answer_of(off).decision.value == "trim"
    assert named(answer_of(off), "foreign_load").value == pytest.approx(1 / 3)
    with pytest.raises(OutputError, match=r"limits\.moon is not known"):
        limits_of(replace(run, config={**run.config, "limits": {"moon": 1}}))


@pytest.mark.parametrize(("busy_share", "invalid"), [(0.38, True), (0.95, False)])
def test_a_verdict_of_rounds_that_wait_for_their_launches_is_invalid(run, busy_share, invalid):
    launches = {
        "launch_us": 5.0, "round_ms": 6.4, "kernels_ms": 6.4 * busy_share, "busy_share": busy_share,
        "vocab_size": 10, "draft_length": 3, "reason": None,
    }  # fmt: skip
    quiet = loaded(run, [0.01] * 30)
    eager = replace(quiet, environment={**run.environment, "launches": launches})
    eager.__dict__["samples"] = quiet.samples
    answer = answer_of(eager)
    assert (answer.decision.value == "invalid") is invalid
    found = named(answer, "launch_ratio")
    assert found.value == pytest.approx(1 / busy_share) and found.limit == 1.1
    if invalid:
        assert found.reason.startswith(
            "the round of k = 10 and gamma = 3 takes 2.63x as long launched kernel by kernel as"
        )
    graphs = replace(eager, environment={**eager.environment, "decoding": {"execution": "graph"}})
    graphs.__dict__["samples"] = quiet.samples
    assert named(answer_of(graphs), "launch_ratio").value is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("drift", 0.0),
        ("disturbed", 1.1),
        ("foreign_load_above", 0.0),
        ("launch_ratio", 0.5),
        ("residual", -1),
    ],
)
def test_impossible_limits_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"limits\.{name}"):
        LimitsConfig(**{name: value})


@pytest.fixture
def disturbed(tmp_path):
    """The folder of a run whose middle third was disturbed."""
    folder = write_run(tmp_path / "results" / "runs" / "busy")
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    timed = [values for values in lines if values["kind"] in ("probe", "decode")]
    for place, values in enumerate(timed):
        values |= {"start_s": 3.0 * place, "end_s": 3.0 * (place + 1)}
    (folder / FILE_NAME).write_text("\n".join(map(json.dumps, lines)) + "\n")
    length = 3 * len(timed)
    samples = [
        {"time_s": t + 0.5, "cpu_load_of_others": 0.5 if length / 3 <= t < 2 * length / 3 else 0.0}
        for t in range(length)
    ]
    (folder / "telemetry.jsonl").write_text("\n".join(map(json.dumps, samples)) + "\n")
    return folder


def test_console_markdown_csv_and_exit_code_say_invalid(disturbed):
    shown = io.StringIO()
    with pytest.raises(InvalidVerdictError, match="INVALID: code; ") as raised:
        render(disturbed, Console(file=shown, width=300))
    assert raised.value.exit_code == 1
    for text in (shown.getvalue(), (disturbed / "report.md").read_text()):
        assert "code: INVALID: other programs took more than 25% of the CPUs in 33% of the time" in text
        assert "limits.foreign_load is 10%" in text and "end other programs" in text
        assert "code: trim" not in text
    assert "make export" not in (disturbed / "report.md").read_text()
    summary = pd.read_csv(disturbed / "summary.csv")
    assert set(summary["verdict"]) == {"invalid"}
    assert set(summary["invalid_figures"]) == {"tokens_per_s over_plain over_full over_full_best prediction"}
    assert summary["invalid_because"].str.contains("33% of the time.*10%.*end other programs").all()


def test_the_page_says_invalid(disturbed, tmp_path):
    with pytest.raises(InvalidVerdictError):
        report_runs([disturbed], disturbed.parent, tmp_path / "reports", None, Console(file=io.StringIO()))
    page = (tmp_path / "reports" / "busy" / "index.html").read_text()
    assert '<span class="badge">invalid</span>' in page
    assert "INVALID: other programs took more than 25%" in page and "Trim to" not in page


def test_a_valid_run_says_its_verdict_in_the_summary(tmp_path):
    folder = write_run(tmp_path / "run")
    render(folder, Console(file=io.StringIO()))
    summary = pd.read_csv(folder / "summary.csv")
    assert set(summary["verdict"]) == {"trim"} and summary["invalid_because"].isna().all()


def test_a_limit_that_a_run_was_started_with_is_read_from_its_configuration(disturbed):
    config = yaml.safe_load((disturbed / "config.yaml").read_text())
    (disturbed / "config.yaml").write_text(yaml.safe_dump({**config, "limits": {"foreign_load": 0.4}}))
    render(disturbed, Console(file=io.StringIO()))
    assert Findings.of(read_run(disturbed)).invalid == []
    assert Variant(FULL, 0) == read_run(disturbed).plain
