import numpy as np
import pandas as pd
import pytest

from bench.cost.shape import DraftShape, Pass
from bench.errors import CheckpointError, FitError
from bench.gpu_tables.attention import Attention, Heads
from bench.gpu_tables.compose import (
    ATTENTION,
    EXPERTS,
    FC,
    QKV,
    SMALL,
    Level,
    TableLatency,
    model_bytes,
)
from bench.gpu_tables.experts import ExpertTable
from bench.gpu_tables.products import Basis, Products
from bench.gpu_tables.ready import ready_pair
from bench.gpu_tables.target import Experts, Target
from bench.gpu_tables.tidy import read_folder
from tests.gpu_tables.synthetic import DENSE, EAGLE3, ENGINE, GPU, attention_ms, product_ms, write_folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return read_folder(write_folder(tmp_path_factory.mktemp("wheel")), "tiny 1.0", "")


def latency(tables, dtype="bfloat16", level=Level.LIKELY):
    gpu = tables.gpus[GPU]

    def table(name):
        key = tables.find(GPU, ENGINE, name)
        return Products(key, tables.products(key), gpu.memory_bytes_per_s)

    heads = Attention(tables.attention(GPU, ENGINE))
    return TableLatency(gpu, table(dtype), table("bfloat16"), heads, origin="tiny", level=level)


def test_a_target_is_its_products_and_attention(tables):
    target, run, sizes = Target.from_config(DENSE, "here"), Pass(1, 1023, 4), np.array([65536])
    found = latency(tables)
    parts = found.parts(target, run)
    # 32 + 2 x 8 heads of 128 are 6,144 outputs.
    assert parts[QKV].ms == pytest.approx(2 * product_ms(4, 6144, 4096), rel=2e-3)
    assert parts[ATTENTION].ms == pytest.approx(2 * attention_ms(4, 32, 8, 128, 1023))
    assert parts[ATTENTION].basis is Basis.EXACT and parts[SMALL].basis is None
    whole = sum(part.ms for part in parts.values()) + found.tail_ms(target, run, sizes)
    assert found.pass_ms(target, run, sizes) == pytest.approx(whole)


def test_an_eagle3_step_reads_two_states_and_fc_once_a_round(tables):
    draft = DraftShape.from_config(EAGLE3, "here")
    chained = latency(tables).parts(draft, Pass(1, 1023, 1))
    first = latency(tables).parts(draft, Pass(1, 1023, 1), with_fc=True)
    assert FC not in chained and first[FC].ms == pytest.approx(product_ms(1, 4096, 12288), rel=2e-3)
    assert chained[QKV].ms == pytest.approx(product_ms(1, 6144, 8192), rel=2e-3)


def test_fewer_rows_of_the_head_cost_less_and_trimming_costs_the_way_back(tables):
    draft, run = DraftShape.from_config(EAGLE3, "here"), Pass(1, 1023, 1)
    found = latency(tables).pass_ms(draft, run, np.array([1024, 16384, 65536]))
    assert (np.diff(found) > 0).all()
    ends = [latency(tables, level=level).selection_ms(draft, run, np.array([1024]))[0] for level in Level]
    assert ends[0] < ends[1] < ends[2]


def test_low_bits_are_for_layers_alone(tables):
    target, draft = Target.from_config(DENSE, "target"), DraftShape.from_config(EAGLE3, "draft")
    wide, narrow, run, sizes = latency(tables), latency(tables, "fp8"), Pass(1, 1023, 1), np.array([65536])
    assert narrow.parts(target, run)[QKV].ms < wide.parts(target, run)[QKV].ms
    assert narrow.tail_ms(target, run, sizes) == wide.tail_ms(target, run, sizes)
    assert narrow.pass_ms(draft, run, sizes) == wide.pass_ms(draft, run, sizes)
    assert "drafts and LM heads bfloat16" in narrow.assumptions[0]


def test_a_verification_reads_keys_once(tables):
    heads = Attention(tables.attention(GPU, ENGINE))
    one, two = (heads.at(Heads(32, 8, 128), 16, 4095, tokens) for tokens in (1, 2))
    assert one.ms == two.ms == pytest.approx(attention_ms(16, 32, 8, 128, 4095))
    assert heads.at(Heads(32, 8, 128), 16, 4095, 5).basis is Basis.INTERPOLATED


def test_attention_between_and_beyond_the_grid(tables):
    heads = Attention(tables.attention(GPU, ENGINE))
    beyond = heads.at(Heads(32, 8, 128), 64, 16383)
    # 64 x 16,384 keys were not measured: four times those of 64 x 4,096.
    assert beyond.basis is Basis.EXTRAPOLATED
    assert beyond.ms == pytest.approx(4 * attention_ms(64, 32, 8, 128, 4095), rel=0.05)
    between = heads.at(Heads(32, 8, 128), 8, 1023)
    assert between.basis is Basis.INTERPOLATED
    assert between.ms == pytest.approx(attention_ms(8, 32, 8, 128, 1023), rel=0.15)
    odd = heads.at(Heads(9, 3, 64), 1, 1023)
    assert odd.basis is Basis.INTERPOLATED
    low, high = (attention_ms(1, 9, count, 64, 1023) for count in (2, 4))
    assert low <= odd.ms <= high
    assert heads.at(Heads(16, 4, 80), 1, 1023).basis is Basis.EXTRAPOLATED


def test_keys_in_other_bits_or_windows_that_nobody_measured_are_refused(tables):
    with pytest.raises(FitError, match="over fp8 keys is tabulated, only bfloat16"):
        Attention(tables.attention(GPU, ENGINE), "fp8")
    with pytest.raises(FitError, match="window of 128"):
        Attention(tables.attention(GPU, ENGINE)).at(Heads(32, 8, 128, 128), 1, 1023)


def test_a_window_that_no_row_has_is_a_context_of_that_length(tables):
    values = DENSE | {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 128}
    part = latency(tables).parts(Target.from_config(values, "here"), Pass(1, 4095, 1))[ATTENTION]
    expected = attention_ms(1, 32, 8, 128, 4095) + attention_ms(1, 32, 8, 128, 128)
    assert part.ms == pytest.approx(expected, rel=0.02) and part.basis is Basis.EXTRAPOLATED


def test_experts_need_a_table(tables):
    values = DENSE | {"num_local_experts": 32, "num_experts_per_tok": 4}
    target = Target.from_config(values, "here")
    assert target.experts.count == 32 and Target.from_config(DENSE, "here").experts is None
    with pytest.raises(FitError, match="no table of expert layers"):
        latency(tables).parts(target, Pass(1, 15, 1))
    assert EXPERTS not in latency(tables).parts(Target.from_config(DENSE, "here"), Pass(1, 15, 1))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"kv_lora_rank": 512}, "multi-head latent attention"),
        ({"num_local_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1}, "shared experts"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layers of linear_attention"),
        ({"num_local_experts": 8}, "not how many a token takes"),
    ],
)
def test_kinds_that_cannot_be_composed_are_named(extra, message):
    with pytest.raises(CheckpointError, match=f"here: .*{message}"):
        Target.from_config(DENSE | extra, "here")


def test_bytes_of_a_model():
    # Attention and MLP of a layer; embedding and head of 65,536 rows in 16 bits.
    layer = 4096 * 6144 + 4096 * 4096 + 3 * 4096 * 8192
    assert model_bytes(Target.from_config(DENSE, "here"), 1.0) == 2 * layer + 2 * 2 * 4096 * 65536


def expert_rows(dtype: str, ms: float, kernel: str = "some") -> pd.DataFrame:
    known = {"hidden_size": 2880, "expert_size": 2880, "experts_per_token": 4, "num_experts": 32}
    rows = [{"tokens": tokens, "latency_ms": ms * tokens, "routing": "even"} for tokens in (1, 2, 4)]
    return pd.DataFrame(rows).assign(dtype=dtype, kernel=kernel, **known)


def test_experts_are_in_the_format_of_the_layers_where_it_is_tabulated():
    experts = Experts(32, 4, 2880)
    both = pd.concat([expert_rows("fp8", 1.0), expert_rows("bfloat16", 2.0)])
    assert ExpertTable(lambda: both).at(experts, 2880, "bfloat16", 2) == (pytest.approx(4.0), Basis.EXACT)
    assert ExpertTable(lambda: both).at(experts, 2880, "fp8", 2) == (pytest.approx(2.0), Basis.EXACT)
    other = ExpertTable(lambda: expert_rows("w4a16_mxfp4", 0.5))
    assert other.format_of(experts, 2880, "bfloat16") == ("w4a16_mxfp4", "some")
    with pytest.raises(FitError, match="no layer of 8 experts 2880 wide, 4 a token"):
        other.at(Experts(8, 4, 2880), 2880, "bfloat16", 1)


def test_experts_weigh_what_their_format_does():
    target = ready_pair("gpt-oss-20b", "shape").target
    experts = 3 * 2880 * 2880 * 32 * 24
    wide, narrow = model_bytes(target, 2.0, 2.0), model_bytes(target, 2.0, 0.5)
    assert wide - narrow == 1.5 * experts
