import json
from dataclasses import replace

import pandas as pd
import pytest

from bench.analysis.fit import times_of
from bench.analysis.latency import latency_frame, step_parts, step_samples
from bench.analysis.run import read_run
from bench.analysis.summary import SUMMARY_COLUMNS, summary_frame
from bench.analysis.surfaces import Surfaces
from bench.errors import OutputError
from bench.records import FILE_NAME, IsolatedRecord
from tests.report.synthetic import ANSWER, FULL, decode, laps_of, write_run
from tests.synthetic_run import append_records


@pytest.fixture
def run(tmp_path):
    return read_run(write_run(tmp_path / "run"))


def row(run, vocab_size, draft_length):
    summary = summary_frame(Surfaces(run))
    chosen = summary[(summary["vocab_size"] == vocab_size) & (summary["draft_length"] == draft_length)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_columns_are_exactly_those_promised(run):
    promised = (
        "pair, domain, device_name, dtype, vocab_size, draft_length, coverage_train, coverage_heldout, "
        "draft_step_ms, lm_head_ms, verify_ms, acceptance_rate, mean_acceptance_length, tokens_per_s, "
        "speedup_vs_autoregressive, speedup_vs_full_vocab, speedup_vs_full_vocab_ci_low, "
        "speedup_vs_full_vocab_ci_high, identical_output_frac, num_prompts, num_tokens"
    )
    assert set(promised.split(", ")) <= set(SUMMARY_COLUMNS)
    assert list(summary_frame(Surfaces(run)).columns) == SUMMARY_COLUMNS


def test_a_trimmed_row_by_hand(run):
    found = row(run, 10, 3).to_dict()
    # 4 prefill + 6 * 0.5 head + 6 * 0.5 select + 4 * 2 layer + 2 * 24 verify + 3 extend = 69 ms.
    assert found == {
        "pair": "synthetic-pair",
        "domain": "code",
        "device_name": "synthetic device",
        "dtype": "float32",
        "role": "optimum+lossless",
        "source": "code",
        "vocab_size": 10,
        "draft_length": 3,
        "coverage_train": pytest.approx(0.8),
        # Of the nine answer tokens, 10 to 14 and the end token are inside.
        "coverage_heldout": pytest.approx(6 / 9),
        "draft_step_ms": 3.0,
        "lm_head_ms": 0.5,
        "verify_ms": 24.0,
        "acceptance_rate": 1.0,
        "mean_acceptance_length": 4.0,
        "predicted_mean_acceptance_length": 4.0,
        "tokens_per_s": pytest.approx(8 / 69 * 1e3),
        "predicted_tokens_per_s": pytest.approx(8 / 69 * 1e3, rel=1e-6),
        "predicted_ci_low": pytest.approx(8 / 69 * 1e3, rel=1e-6),
        "predicted_ci_high": pytest.approx(8 / 69 * 1e3, rel=1e-6),
        "prediction_error": pytest.approx(0, abs=1e-6),
        "replayed_frac": 1.0,
        "replayed_text_error": pytest.approx(0, abs=1e-6),
        "speedup_vs_autoregressive": pytest.approx(160 / 69),
        "speedup_vs_autoregressive_ci_low": pytest.approx(160 / 69),
        "speedup_vs_autoregressive_ci_high": pytest.approx(160 / 69),
        "speedup_vs_full_vocab": pytest.approx(99 / 69),
        "speedup_vs_full_vocab_ci_low": pytest.approx(99 / 69),
        "speedup_vs_full_vocab_ci_high": pytest.approx(99 / 69),
        "identical_output_frac": 1.0,
        "replay_deviating_rounds": 0.0,
        "num_prompts": 2,
        "num_tokens": 16,
        "energy_j_per_token": None,
        "energy_spread": None,
        "verdict": None,
        "invalid_figures": None,
        "invalid_because": None,
    }


def test_plain_decoding_is_the_row_of_draft_length_0(run):
    found = row(run, FULL, 0)
    assert found["verify_ms"] == 20.0
    assert found["tokens_per_s"] == pytest.approx(50)
    assert found["mean_acceptance_length"] == 1.0
    assert found["speedup_vs_autoregressive"] == 1.0
    for column in ("acceptance_rate", "draft_step_ms", "coverage_heldout", "speedup_vs_full_vocab"):
        assert pd.isna(found[column]), column


def test_a_size_between_the_probed_ones_is_predicted_on_the_line(run):
    assert row(run, 20, 3)["prediction_error"] == pytest.approx(0, abs=1e-6)


def test_a_chained_step_is_layer_head_and_selection():
    assert step_samples(laps_of(3, 2, 9.0, 0.25), 3)["draft_step"] == [2.75] * 4


def test_without_chained_steps_a_step_is_unknown(tmp_path):
    run = read_run(write_run(tmp_path, draft_length=1))
    assert pd.isna(row(run, 10, 1)["draft_step_ms"])
    assert row(run, 10, 1)["mean_acceptance_length"] == 2.0
    assert row(run, 10, 1)["prediction_error"] == pytest.approx(0, abs=1e-6)


def test_latencies_are_pooled_over_prompts_and_counted(run):
    latency = latency_frame(run)
    counts = {
        (r["part"], None if pd.isna(r["vocab_size"]) else int(r["vocab_size"])): r["num_samples"]
        for r in latency[latency["setting"] == "in_situ"].to_dict("records")
    }
    # Two prompts, a probe of three rounds of three tokens at each of two sizes; the last round is not
    # followed by an extension.
    assert counts == {
        **{(part, size): 18 for part in ("lm_head", "select") for size in (10, 100)},
        **{(part, size): 12 for part in ("draft_step", "layer") for size in (10, 100)},
        **{("verify", None): 12, ("other", None): 12, ("extend", None): 8},
        ("draft_prefill", None): 4,
    }  # fmt: skip


def test_a_prompt_that_some_variant_lacks_is_left_out(tmp_path):
    folder = write_run(tmp_path)
    append_records(folder, [decode("p3", FULL, 0, [], 20.0, 0)])
    assert row(read_run(folder), FULL, 0)["num_prompts"] == 2


def changed_run(folder, change):
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    for values in lines:
        if values["kind"] == "decode" and values["prompt_id"] == "p2" and values["vocab_size"] == 10:
            values.update(change)
    (folder / FILE_NAME).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return read_run(folder)


def test_a_different_output_is_counted(tmp_path):
    run = changed_run(write_run(tmp_path), {"token_ids": [*ANSWER[:-1], 99]})
    assert row(run, 10, 3)["identical_output_frac"] == 0.5


def test_a_decode_that_accepts_otherwise_than_replayed_is_counted(tmp_path):
    run = changed_run(write_run(tmp_path), {"accepted": [2, 3, 1]})
    assert row(run, 10, 3)["replay_deviating_rounds"] == 2


def test_a_run_without_a_complete_prompt_is_refused(tmp_path):
    folder = write_run(tmp_path)
    lines = (folder / FILE_NAME).read_text().splitlines()
    (folder / FILE_NAME).write_text("\n".join(lines[:10]) + "\n")
    with pytest.raises(OutputError, match="nothing to compare"):
        read_run(folder)
    with pytest.raises(OutputError, match="not a run"):
        read_run(tmp_path / "nosuch")


def test_parts_on_their_own_stand_beside_those_inside_rounds(run):
    latency = latency_frame(run)
    heads = latency[(latency["part"] == "lm_head") & (latency["vocab_size"] == 10)].set_index("setting")
    medians = heads["median_ms"].to_dict()
    assert medians == {"in_situ": 0.5, "isolated_cold": 0.5, "isolated_warm": 0.25}
    verify = latency[(latency["part"] == "verify") & (latency["setting"] == "isolated_warm")]
    assert verify[["draft_length", "median_ms"]].values.tolist() == [[3, 12.0]]


def test_parts_as_graphs_have_settings_of_their_own_and_wall_time(run):
    graph = IsolatedRecord(
        "lm_head", 10, None, "cold", [0.1] * 6, [0.3] * 6, 1, "precise", 0.0, execution="graph"
    )
    latency = latency_frame(replace(run, isolated=[*run.isolated, graph]))
    rows = latency[(latency["part"] == "lm_head") & (latency["vocab_size"] == 10)].set_index("setting")
    assert rows["execution"].to_dict() == {
        **{setting: "eager" for setting in ("in_situ", "isolated_cold", "isolated_warm")},
        "isolated_cold_graph": "graph",
    }
    assert rows.loc["isolated_cold_graph", ["median_ms", "median_wall_ms"]].tolist() == [0.1, 0.3]
    assert rows["median_wall_ms"].isna().to_dict()["in_situ"]
    # What was timed eagerly keeps its rows as they were.
    assert rows.loc["isolated_cold", "median_ms"] == 0.5


def test_rounds_that_are_graphs_have_their_steps_from_graphs_of_the_parts(run):
    def alone(part, size, ms):
        return IsolatedRecord(
            part, size, None, "cold", [ms] * 6, [ms] * 6, 1, "precise", 0.0, execution="graph"
        )

    def probes(domain):
        # A round of gamma steps takes 1 ms and 0.5 ms a step.
        sample = run.probes[domain][0]
        for gamma in (1, 3):
            laps_ms = {"draft": [1 + 0.5 * gamma] * 4, "verify": [12.0] * 4}
            yield replace(sample, vocab_size=10, draft_length=gamma, laps_ms=laps_ms)

    parts = [alone("layer", None, 0.25), alone("lm_head", 10, 0.125), alone("select", 10, 0.0625)]
    graphs = replace(
        run,
        environment={**run.environment, "decoding": {"execution": "graph"}},
        isolated=[*run.isolated, *parts],
        probes={domain: list(probes(domain)) for domain in run.probes},
    )
    steps = step_parts(latency_frame(graphs)).set_index("vocab_size")
    assert steps.loc[10, ["layer", "lm_head", "select"]].tolist() == [0.25, 0.125, 0.0625]
    assert steps.loc[10, "inside"] == pytest.approx(0.5)
    assert times_of([graphs], "draft_step") == {10: [0.4375] * 6}
    assert times_of([graphs], "lm_head") == {10: [0.125] * 6}
    assert set(times_of([graphs], "verify")) == {2, 4}
    # Rounds of one draft length do not say what a step takes.
    single = replace(graphs, probes={domain: of[:1] for domain, of in graphs.probes.items()})
    rows = step_parts(latency_frame(single))
    assert rows["layer"].tolist() == [0.25] * len(run.probes) and rows["inside"].isna().all()
    # Without parts on their own nothing is known of a step but its whole.
    bare = replace(graphs, isolated=[])
    assert times_of([bare], "draft_step") == {}
    assert step_parts(latency_frame(bare))["layer"].isna().all()
