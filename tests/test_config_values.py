"""Values that `test_config.py` leaves out, and what `full` means."""

import pytest

from bench.config import (
    FULL,
    Config,
    DomainConfig,
    GpuConfig,
    MeasureConfig,
    PairConfig,
    Source,
    Task,
    VocabConfig,
)
from bench.errors import ConfigError


def config(**changes) -> Config:
    parts = (
        PairConfig("p", "t", "d"),
        DomainConfig("code", Source.human_eval),
        GpuConfig(),
        VocabConfig([FULL]),
        MeasureConfig([3], 1, 8),
    )
    return Config(*parts, **changes)


@pytest.mark.parametrize("dtype", ["float16", "bf16", ""])
def test_an_unknown_dtype_names_the_known(dtype):
    with pytest.raises(ConfigError, match=f"^dtype={dtype} is impossible.*auto or bfloat16 or float32$"):
        config(dtype=dtype)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeasureConfig([3], 1, 8, probe_rounds=1), "measure.probe_rounds=1 .* at least 2"),
        (lambda: MeasureConfig([3], 1, 8, also_decode=["512"]), "measure.also_decode=512 .* such as 2048:3"),
        (lambda: MeasureConfig([3], 1, 8, also_decode=["512:4"]), "measure.also_decode=512:4 .* gamma among"),
        (lambda: MeasureConfig([3, -1], 1, 8), "measure.draft_lengths=-1 .* at least 1"),
        (lambda: VocabConfig(["1.5"]), "vocab.sizes=1.5 .* or full"),
        (lambda: VocabConfig(["FULL"]), "vocab.sizes=FULL .* or full"),
        (lambda: VocabConfig([FULL], held_out_share=0.0), "vocab.held_out_share=0.0"),
        (lambda: VocabConfig([FULL], held_out_share=float("nan")), "vocab.held_out_share=nan"),
        (lambda: PairConfig("a/b", "t", "d"), "pair.name=a/b .* letters, digits"),
        (lambda: GpuConfig("cuda:"), "gpu.device=cuda: .* cuda:<index>"),
        (lambda: GpuConfig("cuda:-1"), "gpu.device=cuda:-1"),
    ],
)
def test_a_wrong_value_names_key_value_and_what_is_possible(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_full_adds_no_trimmed_size():
    assert VocabConfig([FULL]).trimmed_sizes() == []
    assert VocabConfig(["512", FULL]).trimmed_sizes() == VocabConfig(["512"]).trimmed_sizes() == [512]


def test_runs_lie_under_the_results_folder():
    made = config(results_dir="elsewhere")
    assert made.runs_dir.as_posix() == "elsewhere/runs"
    assert (made.task, made.dtype, made.run) == (Task.bench, "auto", "latest")
