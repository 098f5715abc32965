"""What another engine decoded beside the loop of the run: made to agree, or to differ by known factors."""

from dataclasses import replace

import numpy as np
import pytest

from bench.analysis.engines import engine_facts, round_frame, served_frame
from bench.analysis.run import read_run
from bench.records import RecordWriter, ServedRecord
from bench.surface.choice import FULL, OPTIMUM, PLAIN
from tests.analysis.conftest import H100_700
from tests.analysis.synthetic import Experiment, write_run

# Milliseconds of a step or round by role; processes and slow machines multiply them.
ROUND_MS = {PLAIN: 10.0, FULL: 20.0, OPTIMUM: 16.0}
SLOWER = [1.0, 1.3, 0.8, 1.1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(
        tmp_path_factory.mktemp("served") / "run", H100_700, Experiment(domains=("code",), num_prompts=4)
    )
    found = read_run(folder)
    writer = RecordWriter(folder)
    for process, factor in enumerate(SLOWER):
        for role, round_ms in ROUND_MS.items():
            for concurrency in (1, 2):
                writer.append(served(found, role, process, round_ms * factor, concurrency))
    writer.close()
    return read_run(folder)


def served(run, role: str, process: int, round_ms: float, concurrency: int) -> ServedRecord:
    """Rounds as replayed, each of the same time; half the wall time where two are decoded at a time."""
    variant, counters = run.variant_of("code", role), {}
    plain = run.decodes["code"][run.variant_of("code", PLAIN)]
    replays = run.replays["code"][run.plans["code"].source]
    prompts, new, rounds = sorted(plain), [], []
    for prompt in prompts:
        if variant.is_plain:
            new.append([1] * len(plain[prompt].token_ids))
        else:
            accepted = replays[prompt].replayed().accepted_by_round(variant)
            rounds += accepted
            new.append([1, *(count + 1 for count in accepted)])
    if rounds:
        at = [sum(count > depth for count in rounds) for depth in range(variant.draft_length)]
        counters = {"num_drafts": len(rounds), "accepted_per_pos": at}
    return ServedRecord(
        engine="vllm",
        domain="code",
        vocab_size=variant.vocab_size,
        draft_length=variant.draft_length,
        concurrency=concurrency,
        process=process,
        engine_version="1.0",
        load_s=1.0,
        wall_ms=sum(len(item) for item in new) * round_ms / concurrency,
        prompt_ids=prompts,
        token_ids=[plain[prompt].token_ids for prompt in prompts],
        num_new=new,
        at_ms=[(round_ms * np.arange(1, len(item) + 1)).tolist() for item in new],
        counters=counters,
    )


def test_acceptance_and_texts_agree_with_the_replay(run):
    found = served_frame(run)
    assert len(found) == 6 and set(found["num_processes"]) == {4}
    drafts = found[found["draft_length"] > 0]
    assert drafts["acceptance_agrees"].all()
    assert drafts["acceptance_difference"].abs().max() < 1e-9
    assert set(found["identical_output_frac"]) == {1.0}
    assert (drafts["accepted_by_position"] == drafts["replayed_by_position"]).all()


def test_ratios_are_of_neighbouring_processes(run):
    """A slow process slows all variants, so ratios do not spread although speeds do."""
    found = served_frame(run).set_index(["concurrency", "role"])
    sums = {role: served(run, role, 0, ROUND_MS[role], 1).wall_ms for role in ROUND_MS}
    for concurrency in (1, 2):
        best = found.loc[concurrency].filter(like=OPTIMUM, axis=0).iloc[0]
        assert best["speedup_vs_full_vocab"] == pytest.approx(sums[FULL] / sums[OPTIMUM])
        assert best["speedup_vs_full_vocab_ci_low"] == pytest.approx(sums[FULL] / sums[OPTIMUM])
        assert best["speedup_vs_autoregressive"] == pytest.approx(sums[PLAIN] / sums[OPTIMUM])
        assert best["tokens_per_s_ci_low"] < 0.9 * best["tokens_per_s"]
    assert found.loc[1]["inter_token_p50_ms"].min() == pytest.approx(10.5)


def test_a_texts_or_acceptance_that_differ_are_seen(run):
    def changed(record: ServedRecord) -> ServedRecord:
        return replace(
            record,
            token_ids=[[*tokens[:-1], -1] for tokens in record.token_ids],
            counters={name: 0 if name != "num_drafts" else n for name, n in record.counters.items()}
            | ({"accepted_per_pos": [0] * record.draft_length} if record.draft_length else {}),
        )

    other = replace(run, served={"code": [changed(record) for record in run.served["code"]]})
    found = served_frame(other)
    drafts = found[found["draft_length"] > 0]
    assert not drafts["acceptance_agrees"].any() and set(drafts["mean_acceptance_length"]) == {1.0}
    assert set(found["identical_output_frac"]) == {0.0}


def test_rounds_of_both_engines(run):
    found = round_frame(run).set_index("engine")
    vllm = found.loc["vllm"]
    mean = np.mean(SLOWER)
    assert vllm["full_round_ms"] == pytest.approx(20 * mean)
    assert vllm["saved_ms"] == pytest.approx(4 * mean)
    assert vllm["saved_share"] == pytest.approx(0.2)
    assert set(found.index) == {"own", "vllm"}
    facts = " ".join(engine_facts(served_frame(run), round_frame(run), "code"))
    assert "4 of 4 mean acceptance lengths" in facts and "100% to 100%" in facts


def test_a_run_without_another_engine_has_no_such_tables(run):
    alone = replace(run, served={})
    assert served_frame(alone).empty and round_frame(alone).empty
