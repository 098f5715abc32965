import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.analysis.comparison import (
    BEST_COLUMNS,
    RANK_COLUMNS,
    SPEED_COLUMNS,
    best_frame,
    compare,
    curve_frame,
    rank_by_energy,
    rank_by_speed,
    speed_frame,
)
from bench.analysis.devices import DeviceFindings, verdicts
from bench.analysis.hardware import draft_shape_of, hardware_of
from bench.analysis.load import label_runs
from bench.analysis.run import read_run
from bench.analysis.telemetry import token_energy
from bench.analysis.transfer import STEP_COLUMNS
from bench.records import SteadyRecord
from bench.report.device_figures import (
    acceptance_figure,
    best_size_figure,
    energy_figure,
    speedup_figure,
    split_figure,
    step_figure,
    throughput_figure,
    transfer_figure,
)
from bench.report.drawing import K_LABEL, REPORT_FORMATS, draw
from bench.report.of_devices import devices_report
from bench.report.sections import write_tables
from bench.telemetry.samples import Samples
from bench.variant import Variant
from tests.analysis.conftest import LABELS
from tests.analysis.synthetic import FULL, SIZES, Device, Experiment, write_run
from tests.report.synthetic import write_run as write_small_run

NOT_SAMPLED = "nothing was sampled beside this run"


def with_energy(report, watts: dict[str, float]):
    """The same runs, of which each variant decoded 100 tokens in ten steady seconds at so many watts."""
    entries = []
    for entry in report.comparison.entries:
        run = replace(entry.run)
        if entry.device in watts:
            steady = {
                variant: [SteadyRecord(entry.domain, *variant.key, 100, 1.0, 11.0)]
                for variant in run.decodes[entry.domain]
            }
            run = replace(run, steady={entry.domain: steady})
            rows = [{"time_s": i / 10, "power_w": watts[entry.device]} for i in range(150)]
            run.__dict__["samples"] = Samples(rows)
        entries.append(replace(entry, run=run))
    return DeviceFindings(replace(report.comparison, entries=entries))


def labels_of(figure):
    return {axis.get_ylabel() for axis in figure.axes} | {axis.get_xlabel() for axis in figure.axes}


def test_the_best_by_hand(tmp_path):
    runs = label_runs([read_run(write_small_run(tmp_path / "run"))])
    (row,) = best_frame(compare(runs)).to_dict("records")
    assert list(row) == BEST_COLUMNS
    assert (row["vocab_size"], row["draft_length"]) == (10, 3)
    assert (row["confident_low"], row["confident_high"]) == (10, 10)
    # Eight tokens: 160 ms plain, 99 ms with 100 tokens, 69 ms with 10.
    assert row["tokens_per_s"] == row["predicted_tokens_per_s"] == pytest.approx(8 / 69 * 1e3)
    assert row["plain_tokens_per_s"] == pytest.approx(50)
    assert row["full_tokens_per_s"] == pytest.approx(8 / 99 * 1e3)
    assert row["speedup_vs_plain"] == row["speedup_vs_plain_ci_low"] == pytest.approx(160 / 69)
    assert row["speedup_vs_full"] == pytest.approx(99 / 69)
    assert pd.isna(row["energy_j_per_token"]) and row["energy_reason"] == NOT_SAMPLED


def test_speedups_by_size_by_hand(tmp_path):
    comparison = compare(label_runs([read_run(write_small_run(tmp_path / "run"))]))
    curves = curve_frame(comparison)
    frame = speed_frame(curves, comparison)
    assert list(frame.columns) == SPEED_COLUMNS
    assert frame["vocab_size"].tolist() == [10, 100]
    assert frame["predicted_speedup_vs_plain"].tolist() == pytest.approx([160 / 69, 160 / 99])
    assert curves["vocab_size"].tolist() == [1, 10, 20, 100]


def test_energy_per_token_by_hand(report):
    found = with_energy(report, {"L4": 5.0, LABELS[0]: 1.25})
    rows = found.best[found.best["domain"] == "code"].set_index("device")
    assert rows.loc["L4", "energy_j_per_token"] == pytest.approx(0.5)
    assert rows.loc["L4", "tokens_per_joule"] == pytest.approx(2)
    assert rows.loc[LABELS[0], "tokens_per_joule"] == pytest.approx(8)
    ranked = rank_by_energy(found.best)
    code = ranked[ranked["domain"] == "code"]
    assert list(ranked.columns) == RANK_COLUMNS
    assert code["device"].tolist() == [LABELS[0], "L4", LABELS[1]]
    assert code["place"].tolist() == [1, 2, pd.NA]
    assert code["note"].tolist() == ["", "", NOT_SAMPLED]
    assert "Most tokens per joule: H100 80GB HBM3 (350 W), 8." in verdicts(found.best)[0]
    figure = energy_figure(found)
    assert figure is not None and "energy per token (J)" in labels_of(figure)
    assert energy_figure(report) is None


def test_energy_of_what_was_not_sampled_to_its_end_is_not_told(report):
    entry = with_energy(report, {"L4": 5.0}).comparison.entries[2]
    assert token_energy(entry.run, "code", Variant(FULL, 0)).tokens_per_joule == pytest.approx(2)
    entry.run.samples.rows[:] = entry.run.samples.rows[:50]
    found = token_energy(entry.run, "code", Variant(FULL, 0))
    assert found.j_per_token is None and found.tokens_per_joule is None
    assert found.reason == "the samples do not cover the window"


def test_devices_by_speed(report):
    ranked = rank_by_speed(report.best)
    assert list(ranked.columns) == RANK_COLUMNS
    for _, rows in ranked.groupby("domain"):
        assert rows["device"].tolist() == [LABELS[1], LABELS[0], "L4"]
        assert rows["place"].tolist() == [1, 2, 3]
        assert rows["tokens_per_s"].is_monotonic_decreasing
    slower = report.best.assign(speedup_vs_plain_ci_high=0.9)
    assert set(rank_by_speed(slower)["note"]) == {"slower than plain decoding"}


def test_steps_carry_bandwidth_and_bytes(report):
    steps = report.steps
    assert list(steps.columns) == STEP_COLUMNS
    assert steps.groupby("device")["vocab_size"].apply(list).to_dict() == {d: list(SIZES) for d in LABELS}
    l4 = steps[steps["device"] == "L4"].set_index("vocab_size")
    assert set(l4["memory_bytes_per_s"]) == {3e11}
    # Two bytes of each of 576 weights and of a logit, which is also read again, for every further token.
    grown = l4.loc[8192, "moved_bytes"] - l4.loc[2048, "moved_bytes"]
    assert grown == pytest.approx((8192 - 2048) * (2 * 576 + 2 + 2))
    # Made from 0.02 ms for each of layer, head and selection, and from those bytes.
    expected = 3 * 0.02 + 1e3 * l4["moved_bytes"] / 3e11
    assert l4["median_ms"].to_numpy() == pytest.approx(expected.to_numpy(), rel=0.03)


def test_a_latency_model_holds_on_the_other_device(report):
    moved = report.transferred
    assert len(moved) == 6
    assert set(zip(moved["source"], moved["target"], strict=True)) == set(itertools.permutations(LABELS, 2))
    assert (moved["mean_error"] < 0.05).all()
    assert (moved["mean_error"] <= moved["worst_error"]).all()
    said = report.transfers()
    assert len(said) == 1 and "median of 6 ordered pairs of devices" in said[0]


def test_what_the_data_sheet_does_not_know_is_the_error(tmp_path):
    # Half of what its data sheet lets expect, and no launches: its steps take twice the predicted time.
    slow = Device(name="NVIDIA L4", bandwidth=1.5e11, launch_ms=0.0)
    experiment = Experiment(num_prompts=2)
    folders = [
        write_run(tmp_path / "a", Device(launch_ms=0.0), experiment),
        write_run(tmp_path / "b", slow, experiment),
    ]
    moved = DeviceFindings.of(label_runs(read_run(folder) for folder in folders)).transferred
    moved = moved.set_index(["source", "target"])
    assert moved.loc[("H100 80GB HBM3", "L4"), "mean_error"] == pytest.approx(0.5, abs=0.01)
    assert moved.loc[("L4", "H100 80GB HBM3"), "mean_error"] == pytest.approx(1.0, abs=0.1)


def test_a_device_nobody_knows_has_a_reason_and_no_number(tmp_path):
    folders = [
        write_run(tmp_path / "a", Device(), Experiment(num_prompts=2)),
        write_run(tmp_path / "b", Device(name="Unheard Of X9"), Experiment(num_prompts=2)),
    ]
    report = DeviceFindings.of(label_runs(read_run(folder) for folder in folders))
    assert report.transferred["mean_error"].isna().all()
    assert transfer_figure(report) is None
    assert report.transfers() == [
        "Not every latency model could be moved: Unheard Of X9 has no data sheet, and its run did not probe "
        "its rates."
    ]
    assert any(
        text.startswith("The memory bandwidth of Unheard Of X9 is not known") for text in report.limits()
    )
    unknown = DeviceFindings(report.comparison)
    unknown.__dict__["steps"] = report.steps.assign(memory_bytes_per_s=np.nan)
    assert step_figure(unknown) is None


def test_recorded_rates_and_shapes_come_first(tmp_path):
    run = read_run(write_run(tmp_path / "a", Device(), Experiment(num_prompts=2)))
    sheet = hardware_of(run)
    assert sheet is not None and sheet.name == "h100-sxm"
    recorded = {"name": "x", "source": "probe", "memory_bytes_per_s": 1e11, "peak_flops_per_s": 2e12}
    probed = hardware_of(replace(run, environment={**run.environment, "hardware": recorded}))
    assert probed is not None
    assert (probed.memory_bytes_per_s, probed.peak("bfloat16"), probed.source) == (1e11, 2e12, "probe")
    shape = draft_shape_of(run)
    assert shape is not None and shape.hidden_size == 576
    wide = {**vars(shape), "kind": "eagle3", "hidden_size": 1024}
    told = draft_shape_of(replace(run, environment={**run.environment, "shapes": {"draft": wide}}))
    assert told is not None and told.hidden_size == 1024
    config = {**run.config, "pair": {"name": "other", "draft": "somebody/else"}}
    assert draft_shape_of(replace(run, config=config)) is None


def test_every_figure_is_drawn_with_units_and_devices(report):
    speed = speedup_figure(report)
    assert {K_LABEL, "speed over plain decoding (x)"} <= labels_of(speed)
    legend = [text.get_text() for text in speed.legends[0].get_texts()]
    assert legend == [*LABELS, "predicted fastest"]
    curve = report.curves[(report.curves["domain"] == "code") & (report.curves["device"] == LABELS[0])]
    drawn = speed.axes[0].get_lines()[0]
    assert list(drawn.get_ydata()) == curve["predicted_speedup_vs_plain"].tolist()
    assert speed.axes[0].get_title() == "code (n = 6)"

    best = best_size_figure(report)
    assert [text.get_text() for text in best.axes[0].get_yticklabels()] == LABELS[::-1]
    assert K_LABEL in labels_of(best)

    throughput = throughput_figure(report)
    assert "measured tokens/s" in labels_of(throughput)
    widths = [patch.get_width() for patch in throughput.axes[0].patches]
    code = report.best[report.best["domain"] == "code"].iloc[::-1]
    columns = ("plain_tokens_per_s", "full_tokens_per_s", "tokens_per_s")
    assert widths == pytest.approx([value for column in columns for value in code[column]])

    steps = step_figure(report)
    assert steps is not None
    assert {"memory bandwidth (GB/s)", "median draft step (ms)"} <= labels_of(steps)
    assert [text.get_text() for text in steps.axes[0].get_xticklabels()] == ["300", "3,350"]

    moved = transfer_figure(report)
    assert moved is not None and {"fitted on", "predicted for"} <= labels_of(moved)


def test_confident_ranges_hold_the_best(report):
    for entry in report.comparison.entries:
        rows = report.confident[
            (report.confident["domain"] == entry.domain) & (report.confident["device"] == entry.device)
        ]
        fastest = entry.surface.fastest.vocab_size
        assert ((rows["low"] <= fastest) & (fastest <= rows["high"])).any()
        assert (rows["low"] <= rows["high"]).all()


def test_everything_is_drawn_and_written(report, tmp_path):
    report = with_energy(report, dict.fromkeys(LABELS, 4.0))
    pictures = [p for p in devices_report(report.comparison.runs, report).pictures() if "run" not in p.name]
    assert len(pictures) == 8
    assert draw(pictures, tmp_path, REPORT_FORMATS) == []
    for picture in pictures:
        for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
            assert (tmp_path / f"{picture.name}.{suffix}").read_bytes().startswith(start)
    write_tables(report.tables(), tmp_path)
    for name, table in report.tables().items():
        read = pd.read_csv(tmp_path / f"{name}.csv")
        assert list(read.columns) == list(table.columns)
        assert len((tmp_path / f"{name}.md").read_text().splitlines()) == len(table) + 2
        assert r"\toprule" in (tmp_path / f"{name}.tex").read_text()


def test_a_device_takes_its_place_in_the_figures_of_the_questions(report):
    figure = acceptance_figure(report)
    assert {K_LABEL, "mean acceptance length (tokens)", "coverage (share of tokens)"} <= labels_of(figure)
    # All three accept the same, at the same fastest draft length: one line.
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [f"{LABELS[0]} and 2 more, gamma = 3", "held-out coverage (right)"]
    split = split_figure(report)
    assert [axis.get_title() for axis in split.axes if axis.get_visible()] == LABELS
    first = report.split[report.split["device"] == LABELS[0]]
    total = sum(first[first["vocab_size"] == FULL]["median_ms"])
    top = max(patch.get_y() + patch.get_height() for patch in split.axes[0].patches)
    assert top == pytest.approx(total)


def test_what_a_reader_is_told(report):
    (code, writing) = report.verdicts()
    assert code.startswith("code: H100 80GB HBM3 (700 W) is fastest as decoded, with ")
    assert "Predicted fastest: k = " in code and f"Energy per token: {NOT_SAMPLED}." in code
    assert writing.startswith("writing: ")
    said = report.limits()
    assert any(
        text.endswith("575.2 on L4; 580.1 on H100 80GB HBM3 (350 W), H100 80GB HBM3 (700 W).")
        for text in said
    )
    pairs = " ".join(report.tables()["pairs_of_runs"]["sentence"])
    assert "the power limit differs (350 W and 700 W)" in pairs
    assert "the driver differs (580.1 and 575.2)" in pairs
    assert (
        "code on H100 80GB HBM3 (700 W): only the 6 of 8 prompts that all devices have are compared." in said
    )
