"""What another engine decoded beside the loop of the run: made to agree, or to differ by known factors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.analysis.engines import engine_facts, round_frame, served_frame
from bench.analysis.figures import OVER_FULL
from bench.analysis.run import read_run
from bench.analysis.summary import summary_frame
from bench.analysis.surfaces import Surfaces
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


def at(record: ServedRecord, accepted: int, **setting) -> ServedRecord:
    """The same in another setting, with 100 drafted tokens of which so many are accepted."""
    counters = {"num_drafts": 50, "num_draft_tokens": 100, "num_accepted_tokens": accepted}
    by_position = {"accepted_per_pos": [accepted, *[0] * (record.draft_length - 1)]}
    return replace(record, counters=counters | by_position if record.draft_length else {}, **setting)


def test_an_engine_that_accepts_nothing_once_it_samples_is_seen(run):
    """On a CPU, vLLM 0.32 writes other texts than its target would when it samples with a draft."""
    greedy = [at(record, 40) for record in run.served["code"]]
    for accepted, is_fault in ((0, True), (1, False)):
        sampled = [at(record, accepted, temperature=0.8) for record in greedy]
        frame = served_frame(replace(run, served={"code": [*greedy, *sampled]}))
        facts = " ".join(engine_facts(frame, round_frame(run), "code"))
        assert ("vllm accepts none of 1,600 drafted tokens; greedy, it accepts 40%" in facts) == is_fault


def test_settings_and_servers_stand_apart(run):
    """Texts and acceptance of the run are compared with ours, others with the engine's own plain decoding."""
    base = run.served["code"]
    longer = [replace(r, context_tokens=512, token_ids=[[9, 9]] * len(r.token_ids)) for r in base]
    served = [
        replace(r, engine="vllm serve", texts=["a"] * len(r.token_ids), token_ids=[], num_new=[], wall_ms=4.0,
                num_tokens=[2] * len(r.token_ids))
        for r in base
    ]  # fmt: skip
    frame = served_frame(replace(run, served={"code": [*base, *longer, *served]}))
    assert len(frame) == 18
    others = frame[frame["context_tokens"] == 512]
    drafts = others[others["draft_length"] > 0]
    assert set(drafts["identical_output_frac"]) == {1.0} and others["own_speedup_vs_full_vocab"].isna().all()
    assert drafts["acceptance_agrees"].isna().all() and (drafts["mean_acceptance_length"] > 1).all()
    server = frame[frame["engine"] == "vllm serve"]
    assert set(server["tokens_per_s"].round(6)) == {2 * len(base[0].prompt_ids) / 4.0 * 1e3}
    drafts = server[server["draft_length"] > 0]
    assert drafts["acceptance_agrees"].all() and set(drafts["identical_output_frac"]) == {1.0}


def test_counters_that_a_version_does_not_have_are_not_zero(run):
    without = replace(run, served={"code": [replace(r, counters={}) for r in run.served["code"]]})
    frame = served_frame(without)
    assert frame["mean_acceptance_length"].isna().all() and frame["num_drafts"].isna().all()
    facts = " ".join(engine_facts(frame, round_frame(without), "code"))
    assert "Acceptance: not compared, as vllm 1.0 does not count" in facts


def test_rounds_of_both_engines(run):
    found = round_frame(run).set_index("engine")
    vllm = found.loc["vllm"]
    mean = np.mean(SLOWER)
    assert vllm["full_round_ms"] == pytest.approx(20 * mean)
    assert vllm["saved_ms"] == pytest.approx(4 * mean)
    assert vllm["saved_share"] == pytest.approx(0.2)
    assert set(found.index) == {"own", "vllm"}
    facts = " ".join(engine_facts(served_frame(run), round_frame(run), "code"))
    assert "4 of 4 mean acceptance lengths" in facts and "Texts: 100% of" in facts


def test_the_readme_shows_the_example_as_it_was_measured():
    root = Path(__file__).parents[2]
    readme, run = (root / "README.md").read_text("utf-8"), read_run(root / "results" / "example-vllm")
    served = served_frame(run)
    for _, row in served.iterrows():
        assert _with_interval(row, "tokens_per_s", 1) in readme
        if row["role"] == OPTIMUM:
            assert _with_interval(row, "speedup_vs_full_vocab", 2).replace(" [", "x [") in readme
    own = summary_frame(Surfaces(run)).set_index("role")["tokens_per_s"]
    headline = next(h for h in _headlines(root / "results" / "example-vllm") if h["figure"] == OVER_FULL)
    gain = "{:.2f}x [{:.2f}, {:.2f}]".format(headline["value"], *headline["interval_95"])
    speeds = " | ".join(f"{own[role]:.1f}" for role in (PLAIN, FULL, OPTIMUM))
    assert f"| our loop, one request at a time | {speeds} | {gain} |" in readme
    assert f"trimmed to {headline['variant']['vocab_size']:,} |" in readme
    assert set(served["concurrency"]) == {1, 4, 8} and set(served["num_processes"]) == {3}
    assert f"{served['identical_output_frac'].max():.0%} of vLLM's texts equal ours" in readme


def _headlines(folder: Path) -> list[dict]:
    return json.loads((folder / "claim.json").read_text("utf-8"))["runs"][0]["headlines"]


def _with_interval(row, name: str, digits: int) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_ci_low", "_ci_high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def test_a_run_without_another_engine_has_no_such_tables(run):
    alone = replace(run, served={})
    assert served_frame(alone).empty and round_frame(alone).empty
