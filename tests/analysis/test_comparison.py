from dataclasses import replace

import pandas as pd
import pytest

from bench.analysis.comparison import best_frame, compare
from bench.analysis.devices import DeviceFindings
from bench.analysis.differences import differences, pair_frame
from bench.analysis.load import Case, case_labels, label_runs, load_runs
from bench.analysis.run import read_run
from bench.records import FailureRecord
from bench.report.device_figures import best_size_figure
from bench.variant import Variant
from tests.analysis.conftest import LABELS
from tests.analysis.synthetic import Device, Experiment, write_run


def test_every_domain_has_every_device_on_the_prompts_of_all(report):
    comparison = report.comparison
    assert comparison.devices == LABELS
    assert comparison.panels == [("synthetic-pair, bfloat16", d) for d in ("code", "writing")]
    assert [entry.device for entry in comparison.of(*comparison.panels[0])] == LABELS
    assert {entry.num_prompts for entry in comparison.entries} == {6}
    assert [entry.num_own_prompts for entry in comparison.of(*comparison.panels[0])] == [8, 8, 6]
    for entry in comparison.entries:
        assert {p.prompt_id for p in entry.run.probes[entry.domain]} == {f"p{n}" for n in range(6)}


def test_the_order_of_the_runs_does_not_matter(run_folders, report):
    turned = compare(load_runs(run_folders[::-1]))
    pd.testing.assert_frame_equal(best_frame(turned), report.best)


def test_prompts_that_nobody_shares_stay_and_it_is_said(tmp_path):
    runs = load_runs([
        write_run(tmp_path / "a", Device(), Experiment(num_prompts=2)),
        write_run(tmp_path / "b", Device(name="NVIDIA L4"), Experiment(num_prompts=3, first_prompt=5)),
    ])  # fmt: skip
    assert [entry.num_prompts for entry in compare(runs).entries] == [2, 3]
    assert pair_frame(runs)["sentence"].tolist() == [
        "H100 80GB HBM3 [a] and L4 [b] cannot be compared: of code they have no prompt in common."
    ]


def test_different_work_never_stands_in_one_panel(tmp_path):
    runs = load_runs([
        write_run(tmp_path / "a", Device(), Experiment(num_prompts=2)),
        write_run(tmp_path / "b", Device(name="NVIDIA L4"), Experiment(num_prompts=2, dtype="float32")),
        write_run(tmp_path / "c", Device(name="NVIDIA L4"), Experiment(num_prompts=2, temperature=0.7)),
    ])  # fmt: skip
    comparison = compare(runs)
    assert [case for case, _ in comparison.panels] == [
        "synthetic-pair, bfloat16, temperature 0.7",
        "synthetic-pair, bfloat16, temperature greedy",
        "synthetic-pair, float32",
    ]
    assert all(len(comparison.of(*panel)) == 1 for panel in comparison.panels)
    said = " ".join(pair_frame(runs)["sentence"])
    assert "they differ in the dtype (bfloat16 and float32)" in said
    assert "they differ in the temperature (greedy and 0.7)" in said


def test_a_case_is_told_by_what_it_differs_in(tmp_path):
    run = read_run(write_run(tmp_path / "a", None, Experiment(num_prompts=2)))
    case = Case.of(run)
    assert case_labels([case]) == {case: "synthetic-pair, bfloat16"}
    other = replace(case, draft="e" * 64)
    assert case_labels([case, other]) == {
        case: "synthetic-pair, bfloat16, draft dddddd",
        other: "synthetic-pair, bfloat16, draft eeeeee",
    }
    assert case.differences(other) == ["the draft's weights (dddddd and eeeeee)"]
    assert case.differences(case) == []


def test_a_sweep_over_domains_is_no_list_of_complaints(tmp_path):
    runs = load_runs([
        write_run(tmp_path / f"{uuid}{domain}", Device(name=name, uuid=uuid), Experiment((domain,), 2))
        for name, uuid in (("NVIDIA L4", "one"), ("NVIDIA T4", "two"))
        for domain in ("code", "writing")
    ])  # fmt: skip
    pairs = pair_frame(runs)
    assert len(pairs) == 2
    assert pairs["comparable"].all() and pairs["alike"].all()
    # A run that stands beside no other is told of.
    lonely = pair_frame([*runs[:1], *runs[3:]])
    assert lonely["sentence"].str.contains("no domain is in both").all()


def test_settings_that_differ_are_cautions(tmp_path):
    left = read_run(write_run(tmp_path / "a", Device(), Experiment(num_prompts=3)))
    right = read_run(write_run(tmp_path / "b", Device(driver="590.0"), Experiment(num_prompts=2)))
    found = differences(left, right)
    assert found.comparable and not found.alike
    assert found.cautions == [
        "of code only 2 of 3 prompts are in both",
        "the driver differs (580.1 and 590.0)",
    ]
    assert differences(left, left).alike
    assert differences(left, left).sentence("A", "B") == "A and B were measured alike."


def test_failures_and_sessions_are_cautions(tmp_path):
    run = read_run(write_run(tmp_path / "a", None, Experiment(num_prompts=2)))
    failure = FailureRecord(["decode", "code", "p9", 512, 2], "RuntimeError", "out of memory")
    found = differences(run, replace(run, failures=[failure], num_sessions=3))
    assert found.cautions == ["cases failed (0 and 1)", "they took several sessions (0 and 3)"]


def test_another_ranking_is_a_caution(tmp_path):
    left = read_run(write_run(tmp_path / "a", None, Experiment(num_prompts=2)))
    ranking = left.rankings["code"]
    right = replace(left, rankings={"code": replace(ranking, order=ranking.order[::-1])})
    assert differences(left, right).cautions == ["the vocabularies of code differ"]


def test_a_prompt_of_another_length_under_the_same_name_is_not_shared(tmp_path):
    left = read_run(write_run(tmp_path / "a", None, Experiment(num_prompts=2)))
    plain = left.decodes["code"][Variant(left.full_size, 0)]
    longer = {**plain, "p0": replace(plain["p0"], num_prompt_tokens=99)}
    right = replace(left, decodes={"code": {**left.decodes["code"], Variant(left.full_size, 0): longer}})
    assert differences(left, right).cautions[0] == "of code only 1 of 2 prompts are in both"


def test_one_run_alone_is_a_comparison_too(tmp_path):
    runs = label_runs([read_run(write_run(tmp_path / "a", None, Experiment(num_prompts=2)))])
    assert best_frame(compare(runs))["device"].tolist() == ["H100 80GB HBM3"]
    with pytest.raises(StopIteration):
        next(pair_frame(runs).iterrows())


def test_what_keeps_many_runs_apart_is_told_once(tmp_path):
    names = ("NVIDIA L4", "Tesla T4", "NVIDIA L40S")
    folders = [
        write_run(
            tmp_path / name,
            Device(name=name, driver="590.0" if name == "Tesla T4" else "580.1"),
            Experiment(num_prompts=2, dtype="float32" if name == "NVIDIA L4" else "bfloat16"),
        )
        for name in names
    ]
    report = DeviceFindings.of(load_runs(folders))
    said = report.limits()
    assert "A difference in the dtype keeps runs apart: bfloat16 on L40S, Tesla T4; float32 on L4." in said
    assert "The driver differs, and may explain a difference: 580.1 on L4, L40S; 590.0 on Tesla T4." in said
    assert len(said) == 2
    assert report.comparison.devices_of("synthetic-pair, bfloat16") == ["L40S", "Tesla T4"]
    # A panel holds the devices of its case and no others.
    axes = best_size_figure(report).axes
    shown = [[text.get_text() for text in axis.get_yticklabels()] for axis in axes if axis.get_visible()]
    assert shown == [["Tesla T4", "L40S"], ["L4"]]
