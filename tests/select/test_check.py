"""`task=check` on pairs of the zoo: verdicts, engines, and the audit of a map."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.config import PairConfig
from bench.select.check import check_pair, rank_lines, rank_shares
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import VOCAB_SIZE
from tests.zoo.draft_rows import REFUSED, RUNS
from tests.zoo.targets import RUNS as TARGETS


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    row = next(row for row in TARGETS if row.name == "Llama")
    return row.write(tmp_path_factory.mktemp("target"))


def named(rows, name):
    return next(row for row in rows if row.name == name)


def check(target, folder, row=None):
    return check_pair(PairConfig("p", str(target), str(folder), **(row.options if row else {})))


def test_a_sound_pair_has_no_problem(target, tmp_path):
    found = check(target, named(RUNS, "SpecForge, Qwen3 target").write(tmp_path))
    text = "\n".join(found.lines)
    assert not found.problems
    assert "target: llama, runs through the lean pass" in text and "draft: an EAGLE-3 draft" in text
    assert "vLLM: loads it as it is" in text and "SGLang: loads it as it is" in text
    assert "states after 2, 4, 5 layers" in text and "in order and in range" in text
    assert "honoured: architectures=" in text and "irrelevant: bos_token_id=0" in text


def test_a_quantised_target_may_take_either_way(tmp_path):
    """Which one, its library decides on loading: FP8 weights are dequantised on a CPU."""
    target = named(TARGETS, "Llama").write(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "fp8"}}
    path.write_text(json.dumps(values))
    lines = check_pair(PairConfig("p", str(target), "mtp")).lines
    assert lines[0] == (
        "target: llama, runs through transformers (AutoModelForCausalLM), or through the lean pass where its "
        "weights are dequantised on loading"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("norm_before_residual", "SGLang: not as it is here: it ignores norm_before_residual"),
        ("bias of fc", "vLLM: not as it is here: it has no bias of fc"),
        ("speculators, Llama layer", "SGLang: not as it is here: it does not read the speculators layout"),
        ("AngelSlim, tied on paper, window on paper", "with tie_word_embeddings it takes the embedding"),
        ("stale num_hidden_layers", "vLLM: not as it is here: it makes num_hidden_layers=24 layers of the 1"),
        ("SpecForge, eagle_config names layers", "SGLang takes those after 2, 5, 7 layers"),
    ],
)
def test_engines_are_judged_by_the_drafts_keys(target, tmp_path, name, words):
    row = named(RUNS, name)
    assert words in "\n".join(check(target, row.write(tmp_path), row).lines)


@pytest.mark.parametrize("name", ["DFlash", "GELU", "unknown key", "not JSON", "d2t out of order"])
def test_a_refusal_is_a_problem(target, tmp_path, name):
    row = named(REFUSED, name)
    assert len(check(target, row.write(tmp_path)).problems) == 1


def test_a_map_that_lacks_or_repoints_tokens_is_found(target, tmp_path):
    folder = named(RUNS, "SpecForge, Qwen3 target").write(tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    size = len(tensors["d2t"])

    def problems(**changed):
        save_file({**tensors, **changed}, path, metadata={"content_hash": "0"})
        return " ".join(check(target, folder).problems)

    assert "other tokens than those it was written with" in problems()
    first = torch.zeros(VOCAB_SIZE, dtype=torch.bool)
    first[:size] = True
    assert "as if it were missing" in problems(d2t=torch.zeros(size, dtype=torch.int64), t2d=first)
    assert "d2t and t2d name different tokens" in problems(d2t=torch.zeros(size, dtype=torch.int64))
    later = torch.arange(size) + 10
    assert "tokens that every draft must keep are not in the map, such as 0, 1" in problems(
        d2t=later - torch.arange(size), t2d=torch.isin(torch.arange(VOCAB_SIZE), later)
    )
    save_file({name: t for name, t in tensors.items() if name not in ("d2t", "t2d")}, path)
    assert "has no d2t, so that engines take the first" in check(target, folder).problems[0]


def test_ranks_that_hold_most_are_warned_of():
    crowded = DraftVocab(np.array([*range(9), 15]), 16)
    assert rank_shares(crowded, 2).tolist() == [0.8, 0.2]
    assert rank_shares(crowded, 4).tolist() == [0.4, 0.4, 0.1, 0.1]
    lines = rank_lines(crowded)
    assert "warning, rank 0 holds most" in lines[0] and "warning" not in lines[1]
    assert all("warning" not in line for line in rank_lines(DraftVocab(np.arange(16), 16)))
