"""A pair on published GPUs, from small tables that follow t0 + B/W exactly."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd
import pytest

from bench.analysis.end_to_end import host_of, truth_summary
from bench.analysis.gpus import KERNELS, Question, ask_gpus, compose, nearest_width
from bench.analysis.gpus_verdict import batch_table, doubts, flops_sentence, headline, missing
from bench.analysis.published import products_of
from bench.cost.shape import DraftShape, Pass
from bench.errors import ConfigError
from bench.gpu_tables.ready import Pair, ready_names, ready_pair
from bench.gpu_tables.target import Target
from bench.gpu_tables.tidy import read_folder
from bench.surface.lengths import of_profile
from tests.gpu_tables.synthetic import DENSE, EAGLE3, ENGINE, GPU, VERSION, product_ms, products, write_folder

PROFILE = {
    "rates": [0.8, 0.6, 0.4], "num_drafts": 500,
    "acceptance_rate_by_size": {1024: 0.6, 16384: 0.8, 65536: 0.8},
}  # fmt: skip


def planted():
    """One row that takes 1.6 times as long."""
    table = products()
    here = (table["gemm_dtype"] == "bfloat16") & (table["m"] == 1) & (table["n"] == 8192)
    table.loc[here & (table["k"] == 4096), "latency"] *= 1.6
    return table


def end_to_end(tables):
    """Whole models as composed, but for a third one."""
    key = tables.find(GPU, ENGINE, "bfloat16")
    wide = products_of(tables, key)
    latency, target = compose(tables, tables, wide, wide), ready_pair("llama-3.1-8b", "").target
    alone = float(latency.pass_ms(target, Pass(1, 1024 + 256, 1), np.array([target.vocab_size]))[0])
    rows = [
        {"batch_size": 1, "isl": 1024, "osl": 512, "silicon_tpot_ms": alone},
        {"batch_size": 4, "isl": 1024, "osl": 32, "silicon_tpot_ms": 3 * alone},
        {"batch_size": 512, "isl": 8192, "osl": 1024, "silicon_tpot_ms": 100.0},
    ]
    return pd.DataFrame(rows).assign(
        system=GPU, backend=ENGINE, backend_version="0.20", mode="agg", tp_size=1, pp_size=1,
        gemm_quant_mode=None, model_path="meta-llama/Llama-3.1-8B-Instruct",
    )  # fmt: skip


@cache
def asked():
    folder = write_folder(Path(mkdtemp()), planted())
    end_to_end(read_folder(folder, "tiny 1.0", "MIT")).to_csv(folder / "silicon_sample.csv", index=False)
    tables = read_folder(folder, "tiny 1.0", "MIT")
    pair = Pair("tiny", Target.from_config(DENSE, "here"), DraftShape.from_config(EAGLE3, "here"))
    question = Question(
        pair, of_profile(PROFILE, pair.draft, "here"), ["bfloat16", "fp8", "nvfp4"], [1, 64], [512], [4096]
    )
    return ask_gpus([tables], question, [], [])


def test_every_dtype_batch_and_context_is_answered_or_refused_with_the_reason():
    found = asked()
    rows = found.choices[found.choices["host"] == KERNELS]
    places = rows[["gpu", "engine", "version", "dtype", "batch", "context"]].itertuples(
        index=False, name=None
    )
    assert set(places) == {
        (GPU, ENGINE, VERSION, dtype, batch, 512) for dtype in ("bfloat16", "fp8") for batch in (1, 64)
    }
    refused = found.refused[found.refused["dtype"] == "nvfp4"]
    assert refused["reason"].tolist() == [f"tiny 1.0 has no nvfp4 table of {GPU} with {ENGINE}"]


def test_the_choice_is_the_fastest_of_a_plain_search():
    found = asked()
    row = found.choices[(found.choices["dtype"] == "bfloat16") & (found.choices["batch"] == 1)].iloc[0]
    curve = found.curves[found.curves["dtype"] == "bfloat16"].set_index("vocab_size")["speedup_vs_plain"]
    assert curve.idxmax() == row["vocab_size"] and curve.max() == pytest.approx(row["speedup_vs_plain"])
    assert row["speedup_vs_plain_ci_low"] <= row["speedup_vs_plain"] <= row["speedup_vs_plain_ci_high"]
    # What a smaller head saves, by the formula that the tables follow.
    saved = row["full_draft_step_ms"] - row["draft_step_ms"]
    by_hand = product_ms(1, 65536, 4096) - product_ms(1, row["vocab_size"], 4096)
    assert saved == pytest.approx(by_hand, rel=0.05)
    assert 1024 < row["vocab_size"] < 65536


def test_tables_that_follow_a_law_are_predicted_and_a_planted_row_is_flagged():
    found = asked()
    assert (found.errors["row_error"] < 0.02).all() and (found.errors["size_error"] < 0.02).all()
    flags = found.flags[["dtype", "tokens", "outputs", "inputs"]].values.tolist()
    assert flags == [["bfloat16", 1, 8192, 4096]]
    assert "slower than its neighbours say" in found.flags["doubt"].iloc[0]
    models = found.models[found.models["tokens"] == 4].set_index("model")["error"]
    assert models["t0 + B/W"] < 1e-3 < 0.1 < models["FLOPs, fc once per round"]


def test_whole_models_are_compared_and_what_is_not_comparable_says_why():
    truth = asked().truth
    truth = truth[truth["dtype"] == "bfloat16"].set_index("batch")
    alone, four, many = (truth.loc[batch] for batch in (1, 4, 512))
    assert abs(alone["error"]) < 1e-9 and alone["prefill_share"] == 0 and alone["note"] == ""
    assert 0 < four["prefill_share"] < 0.5 and four["composed_ms"] > four["step_ms"]
    assert "do not fit into the memory" in many["note"]
    judged = truth_summary(asked().truth)
    assert judged["num_rows"].tolist() == [2] and judged["num_decode_rows"].tolist() == [1]


def test_what_is_said_names_gpus_sizes_and_doubts():
    found = asked()
    text = " ".join([*headline(found), *doubts(found), *missing(found)])
    row = found.choices[(found.choices["dtype"] == "bfloat16") & (found.choices["batch"] == 1)].iloc[0]
    assert f"{row['vocab_size']:,}" in text and f"{row['speedup_vs_full_vocab']:.2f}x ({GPU})" in text
    assert "tiny 1.0 has no nvfp4 table" in text and "whether their caches were warm is not recorded" in text
    assert f"over {len(found.choices)} settings" in flops_sentence(found)
    assert batch_table(found)["gpu"].tolist() == [GPU, GPU]


def test_a_gpu_or_engine_that_nobody_published_is_refused():
    tables = read_folder(write_folder(Path(mkdtemp())), "tiny 1.0", "MIT")
    with pytest.raises(ConfigError, match=f"no table is left: gpus.names are of {GPU}"):
        ask_gpus([tables], asked().question, ["h900"], [])


def test_the_host_s_work_is_fitted_to_published_rounds():
    rows = [(0, 0.5), (1, 2.0), (2, 2.7), (3, 3.4)]
    rounds = pd.DataFrame(rows, columns=["draft_length", "beyond_ms"]).assign(source="somebody")
    host = host_of(rounds)
    assert (host.pass_ms, host.round_ms, host.step_ms) == pytest.approx((0.5, 2.0, 0.7))
    assert "somebody" in host.origin and host_of(rounds.head(3)) is None


def test_a_width_is_judged_at_the_nearest_that_is_tabulated():
    assert nearest_width(576) == 2048 and nearest_width(2880) == 3072 and nearest_width(5120) == 5120


@pytest.mark.parametrize("name", ready_names())
def test_every_ready_pair_has_sizes_and_its_own_vocabulary(name):
    pair = ready_pair(name, "")
    assert pair.draft.draft_vocab_size <= pair.draft.vocab_size == pair.target.vocab_size
    if pair.profile is not None:
        of_profile(pair.profile, pair.draft, name)
