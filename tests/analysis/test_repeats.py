"""Runs in several processes: pooled, with processes as the blocks of their intervals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from bench.analysis.claims import claims_of
from bench.analysis.doubts import doubts
from bench.analysis.findings import Findings
from bench.analysis.latency import drift_in
from bench.analysis.run import read_run
from bench.analysis.surfaces import Surfaces
from bench.records import FILE_NAME
from bench.surface.latency import RoundLatency
from bench.variant import Variant
from tests.analysis.synthetic import Device, Experiment, write_run

BEST = Variant(2048, 3)


def in_processes(folder, paces, keep=lambda values: True):
    """A run of which each process took so many times as long; the first is as it was written."""
    write_run(folder, Device(noise=0.02), Experiment())
    lines = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    timed = [values for values in lines if values["kind"] in ("probe", "decode")]
    lines = [values for values in lines if values["kind"] != "end"]
    for process, pace in enumerate(paces, start=1):
        for values in timed:
            laps = {name: [ms * pace for ms in samples] for name, samples in values["laps_ms"].items()}
            more = {**values, "laps_ms": laps, "process": process}
            if values["kind"] == "decode":
                more |= {name: values[name] * pace for name in ("decode_ms", "wall_ms")}
            lines += [more] if keep(more) else []
    (folder / FILE_NAME).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return read_run(folder)


def test_decodes_are_pooled_at_their_mean_time_and_kept_one_by_one(tmp_path):
    alone, pooled = in_processes(tmp_path / "a", []), in_processes(tmp_path / "b", [1.2, 1.1])
    assert (alone.num_processes("code"), pooled.num_processes("code")) == (1, 3)
    before, after = alone.decodes["code"][BEST], pooled.decodes["code"][BEST]
    assert before.keys() == after.keys()
    for prompt, record in after.items():
        assert record.decode_ms == pytest.approx(1.1 * before[prompt].decode_ms)
        assert len(record.laps_ms["verify"]) == 3 * len(before[prompt].laps_ms["verify"])
    assert len(pooled.decodes_of("code", BEST)) == 3 * len(alone.decodes_of("code", BEST)) == 18
    assert len(pooled.probes["code"]) == 3 * len(alone.probes["code"])


def test_processes_are_the_blocks_of_latency_and_few_of_them_are_known_as_few(tmp_path):
    run = in_processes(tmp_path / "run", [1.2, 0.9])
    surfaces = Surfaces(run)
    assert surfaces.latency["code"].blocks == ["0", "1", "2"]
    surface = surfaces.of("code")
    assert surface.block_left_out.shape[0] == 3 and surface.prompt_left_out.shape[0] == 6
    # By hand: a step of plain decoding is a mean over processes of equal weight.
    steps = [np.mean([p.laps_ms["verify"] for p in run.decodes_of("code", run.plain) if p.process == 0])]
    steps = np.array([steps[0] * pace for pace in (1.0, 1.2, 0.9)])
    left = np.log(steps.mean() / ((steps.sum() - steps) / 2))
    error = np.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum())
    speed = surface.speed(run.plain)
    assert speed.left_out[1] == pytest.approx(left)
    assert speed.log_tokens_per_s == pytest.approx(np.log(1e3 / steps.mean()))
    low = speed.over(replace(speed, log_tokens_per_s=0.0, left_out=tuple(0 * s for s in speed.left_out)))
    assert np.log(low.value / low.ci_low) == pytest.approx(t.ppf(0.975, 2) * error)


def test_halves_are_of_prompts_although_processes_are_the_blocks(tmp_path):
    halves = Surfaces(in_processes(tmp_path / "run", [1.2])).halves("code")
    assert [len(half.surface.block_left_out) for half in halves] == [3, 3]


def test_prompts_stay_the_blocks_of_a_single_process(tmp_path):
    run = in_processes(tmp_path / "run", [])
    assert Surfaces(run).latency["code"].blocks == [f"p{i}" for i in range(6)]
    latency = RoundLatency.from_probes(in_processes(tmp_path / "b", [1.1]).probes["code"], by_prompt=True)
    assert latency.blocks == [f"p{i}" for i in range(6)]


def test_a_process_that_was_cut_off_shortens_nothing_and_is_named(tmp_path):
    run = in_processes(
        tmp_path / "run",
        [1.2, 1.1],
        lambda values: values["process"] < 2 or values["prompt_id"] in ("p0", "p1"),
    )
    assert run.num_processes("code") == 2 and len(run.prompts["code"]) == 6
    assert {record.process for record in run.decodes_of("code")} == {0, 1}
    asked = {**run.config, "measure": {**run.config["measure"], "repeats": 3}}
    (doubt,) = [d for d in doubts(replace(run, config=asked)) if d.code == "unfinished"]
    assert "(what is shown: code: 6 prompts in 2 of 3 processes)" in doubt.what


def test_a_prompt_that_failed_in_one_process_is_left_out_of_all(tmp_path):
    run = in_processes(tmp_path / "run", [1.2], lambda values: values["prompt_id"] != "p3")
    assert run.num_processes("code") == 2
    assert run.prompts["code"] == ["p0", "p1", "p2", "p4", "p5"]
    assert {record.prompt_id for record in run.decodes_of("code")} == set(run.prompts["code"])


def test_drift_is_over_all_processes_in_their_order(tmp_path):
    assert drift_in(in_processes(tmp_path / "run", [1.3]), "code").change == pytest.approx(0.3, abs=0.05)


def test_claim_and_report_say_how_many_processes(tmp_path):
    found = Findings.of(in_processes(tmp_path / "run", [1.01, 0.99]))
    (run,) = claims_of([found], tmp_path)["runs"]
    assert {item["num_processes"] for item in run["headlines"]} == {3}
    assert {item["num_blocks"] for item in run["headlines"]} == {3}
    assert found.facts("code")[0].startswith(
        "6 held-out prompts replayed, 6 of them probed and decoded in each of 3 fresh processes. "
    )
