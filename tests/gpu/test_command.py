"""The command line on a GPU, from the data to the report: `make test-gpu`."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from bench.records import (
    BaselineRecord,
    DecodeRecord,
    FailureRecord,
    ProbeRecord,
    SampledReplayRecord,
    SteadyRecord,
)
from bench.telemetry.samples import read_samples
from bench.telemetry.windows import energy_between
from tests.gpu.pairs import write_transformers_pair

pytestmark = pytest.mark.gpu

needs_two = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason=f"needs two GPUs; {torch.cuda.device_count()} are visible"
)


def finished(done):
    """What a run that ended well has measured."""
    assert done.code == 0, done.text[-3000:]
    records = done.records
    assert not [record for record in records if isinstance(record, FailureRecord)]
    assert (done.run / "report.md").read_text("utf-8").strip()
    return records


def rates(records):
    """Tokens a second after the first, by variant."""
    decodes = [record for record in records if isinstance(record, DecodeRecord)]
    found = {}
    for variant in dict.fromkeys(record.variant for record in decodes):
        of = [record for record in decodes if record.variant == variant]
        took_ms = sum(record.decode_ms for record in of)
        found[variant] = sum(len(record.token_ids) - 1 for record in of) / took_ms * 1e3, of
    return found


def texts(records):
    """Plain answers by prompt, and the share of all others that equal them."""
    decodes = [record for record in records if isinstance(record, DecodeRecord)]
    plain = {record.prompt_id: record.token_ids for record in decodes if record.variant.is_plain}
    same = [r.token_ids == plain[r.prompt_id] for r in decodes if not r.variant.is_plain]
    return plain, float(np.mean(same))


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    return command(tmp_path_factory.mktemp("run"), [*command.pair, "gpu=0", *command.effort])


def test_a_run_measures_and_reports(run, page):
    records, environment = finished(run), run.environment
    assert environment["device"] == "cuda:0" and environment["decoding"]["execution"] == "graph"
    launches = environment["launches"]
    assert launches["launch_us"] > 0 and 0 < launches["busy_share"] <= 1
    section = f"Run of {environment['pair']} in {environment['dtype']}"
    page.note(section, "one launch", f"{launches['launch_us']:.2f} us")
    page.note(
        section,
        f"busy share of a round (k = {launches['vocab_size']}, gamma = {launches['draft_length']})",
        f"{launches['busy_share']:.0%}: {launches['kernels_ms']:.3f} of {launches['round_ms']:.3f} ms",
    )
    found = rates(records)
    assert any(variant.is_plain for variant in found) and len(found) >= 3
    for variant, (tokens_per_s, of) in found.items():
        rounds = [accepted for record in of for accepted in record.accepted]
        tau = "" if variant.is_plain else f", tau {1 + np.mean(rounds):.2f}"
        name = "plain" if variant.is_plain else f"k = {variant.vocab_size}, gamma = {variant.draft_length}"
        page.note(section, name, f"{tokens_per_s:.1f} tokens/s{tau}")
    for record in records:
        if isinstance(record, DecodeRecord):
            assert 0 < record.decode_ms <= 1.05 * record.wall_ms
    share = texts(records)[1]
    page.note(section, "texts equal to plain decoding", f"{share:.0%}")
    assert share == 1 or environment["dtype"] != "float32"
    probes = [record for record in records if isinstance(record, ProbeRecord)]
    assert probes and all(min(map(min, probe.laps_ms.values())) >= 0 for probe in probes)


def test_plain_decoding_is_no_slower_than_generate(run, page):
    baselines = [record for record in finished(run) if isinstance(record, BaselineRecord)]
    assert baselines
    for record in baselines:
        ratio = record.generate_ms / record.plain_ms
        page.note("Baseline", "transformers.generate over plain decoding", f"{ratio:.2f}x")
        assert ratio > 1


def test_energy_windows_have_joules_or_a_reason(run, page):
    windows = [record for record in finished(run) if isinstance(record, SteadyRecord)]
    samples = read_samples(run.run)
    if not windows:
        told = run.environment["telemetry"]
        page.note("Energy", "not known", told["why_not"] or told["gpu"]["unsupported"])
        assert told["why_not"] or {"energy_j", "power_w"} <= told["gpu"]["unsupported"].keys()
        return
    for window in windows:
        found = energy_between(samples.rows, window.start_s, window.end_s, of_gpu=True)
        assert found.energy_j is not None and found.energy_j > 0, found.reason
        watts, variant = found.energy_j / (window.end_s - window.start_s), window.variant
        page.note(
            "Energy",
            f"k = {variant.vocab_size}, gamma = {variant.draft_length}",
            f"{found.energy_j / window.num_tokens:.3f} J a token, {watts:.0f} W ({found.method})",
        )


def test_a_sampled_run_measures(command, tmp_path, page):
    done = command(
        tmp_path, [*command.pair, "gpu=0", *command.least, "measure.temperature=0.8", "measure.top_p=0.95"]
    )
    records = finished(done)
    assert any(isinstance(record, SampledReplayRecord) for record in records)
    for variant, (tokens_per_s, _) in rates(records).items():
        page.note(
            "Sampled, temperature 0.8",
            f"k = {variant.vocab_size}, gamma = {variant.draft_length}",
            f"{tokens_per_s:.1f} tokens/s",
        )


def test_a_target_that_transformers_runs_is_measured_in_loops_and_keeps_its_text(command, tmp_path, page):
    pair = write_transformers_pair(tmp_path / "pair")
    done = command(tmp_path / "results", [*pair, *command.least, "gpu=0", "dtype=float32"])
    records, environment = finished(done), done.environment
    assert environment["target_runner"] == "transformers"
    assert environment["decoding"]["execution"] == "eager"
    share = texts(records)[1]
    page.note("Target run by transformers, float32", "texts equal to plain decoding", f"{share:.0%}")
    assert share == 1


def test_measurements_are_correct_here(command, tmp_path, page):
    done = command(tmp_path, ["task=selfcheck", *command.pair, "gpu=0"])
    files = sorted((tmp_path / "selfcheck").glob("*.json"))
    assert files, done.text[-3000:]
    checks = json.loads(files[-1].read_text("utf-8"))["checks"]
    for check in checks:
        verdict = "pass" if check["passed"] else "FAIL"
        again = "" if check["attempt"] == 1 else ", repeated"
        page.note("Selfcheck", check["name"] + again, f"{verdict}: {check['finding']}")
    assert "stationarity" in [check["name"] for check in checks]
    assert done.code == 0, done.text[-3000:]


@needs_two
def test_another_gpu_than_the_first(command, tmp_path, page):
    done = command(tmp_path, [*command.pair, "gpu=1"])
    finished(done)
    assert done.environment["device"] == "cuda:1"
    told = done.environment["telemetry"]["gpu"]
    page.note("Second GPU", "measured", f"{done.environment['device_name']}, {told and told['uuid']}")
    assert told is None or str(torch.cuda.get_device_properties(1).uuid) in told["uuid"]


@needs_two
def test_two_gpus_at_once_do_not_wait_for_each_other(command, run, tmp_path, page):
    with ThreadPoolExecutor(2) as pool:
        both = list(
            pool.map(
                lambda index: command(
                    tmp_path / str(index), [*command.pair, f"gpu={index}", *command.effort]
                ),
                (0, 1),
            )
        )
    alone = {variant: rate for variant, (rate, _) in rates(finished(run)).items()}
    for index, done in enumerate(both):
        assert "waiting for it to end" not in done.text
        found = {variant: rate for variant, (rate, _) in rates(finished(done)).items()}
        shared = found.keys() & alone.keys()
        assert done.environment["device"] == f"cuda:{index}" and shared
        over = np.median([found[variant] / alone[variant] for variant in shared])
        page.note("Two GPUs at once", f"gpu={index} over gpu=0 alone", f"{over:.2f}x")
