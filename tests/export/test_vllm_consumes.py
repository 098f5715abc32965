"""What an export holds for vLLM, read by vLLM itself: `make test-vllm` installs it.

Its CPU build samples without synthetic acceptance, so that its kernel runs here in Triton's interpreter.
"""

import json
import os
import subprocess

import numpy as np
import pytest

from bench.config import PairConfig
from bench.decoding.decoder import Decoder
from bench.decoding.rounds import Timeline
from bench.decoding.vllm_engine import (
    ENVIRONMENT,
    VllmError,
    python_of_environment,
    vllm_process,
    vllm_settings,
)
from bench.device import CpuDevice
from bench.export.bundle import speculative_config
from bench.export.checkpoint import trim_decoder_lm
from bench.export.speculation_profile import speculation_profile, synthetic_settings
from bench.models.fetching import resolve_model
from bench.runs.pair import load_pair
from bench.surface.schedule import KEY, schedule_of
from bench.text.conversation import user_prompt
from bench.vocab.draft_vocab import DraftVocab
from tests.zoo.test_shipped_draft import DRAFT

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (ENVIRONMENT / "bin" / "python").exists(), reason="vLLM is not installed here"),
]

GAMMA = 3

# Runs vLLM's own greedy acceptance on made-up tokens; prints the mean number of tokens of a round.
KERNEL = """
import ast, importlib.util, json, os, sys
os.environ["TRITON_INTERPRET"] = "1"
import torch

def function(path, name, header, out):
    tree = ast.parse(open(path).read())
    node = next(n for n in tree.body if getattr(n, "name", "") == name)
    open(out, "w").write(header + ast.unparse(node))
    spec = importlib.util.spec_from_file_location(name, out)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)

vllm, out, rates, rounds = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
sampler, utils = f"{vllm}/v1/sample/rejection_sampler.py", f"{vllm}/v1/spec_decode/utils.py"
header = "import triton\\nimport triton.language as tl\\n"
kernel = function(sampler, "rejection_greedy_sample_kernel", header, f"{out}/a.py")
conditional = function(utils, "unconditional_to_conditional_rates", "", f"{out}/b.py")
gamma, ints = len(rates), dict(dtype=torch.int32)
uniform = torch.rand(rounds * gamma, generator=torch.Generator().manual_seed(0))
tokens = torch.full((rounds, gamma + 1), -1, **ints)
kernel[(rounds,)](
    tokens, torch.arange(1, rounds + 1, **ints) * gamma, torch.zeros(rounds * gamma, **ints),
    torch.zeros(rounds * gamma, dtype=torch.int64), torch.zeros(rounds, **ints), None, gamma, uniform,
    torch.tensor(conditional(rates)), SYNTHETIC_MODE=True,
)
print((tokens >= 0).sum().item() / rounds)
"""


@pytest.fixture(scope="module")
def profile():
    """Of 1,000 rounds that were made up."""
    accepted = np.array([[700.0, 400.0, 150.0]])
    walks = {gamma: (np.array([1000.0]), accepted[:, :gamma]) for gamma in range(1, GAMMA + 1)}
    return speculation_profile(walks, GAMMA, "eagle3", {}, {}, {})


def with_model(speculative, concurrency):
    target = resolve_model("smollm2-135m-instruct", None)
    return vllm_process(vllm_settings(target, "float32", 256, concurrency, speculative, True))


def prompts(number):
    return np.random.default_rng(0).integers(100, 40000, (number, 16)).tolist()


def test_its_acceptance_reproduces_the_mean_length(profile, tmp_path):
    """4,000 rounds leave a standard error of 0.8%."""
    python = python_of_environment()
    (folder,) = (ENVIRONMENT / "lib").glob("python3*/site-packages/vllm")
    rates = synthetic_settings(profile)["synthetic_acceptance_rates"]
    script = tmp_path / "kernel.py"
    script.write_text(KERNEL, "utf-8")
    command = [str(python), str(script), str(folder), str(tmp_path), json.dumps(rates), "4000"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(profile["mean_accept_length"], rel=0.02)


def test_an_engine_loads_with_the_synthetic_rates(profile):
    """Where it can decode with them, on a GPU, the mean acceptance length is that of the profile."""
    with with_model(speculative_config(DRAFT, GAMMA) | synthetic_settings(profile), 8) as engine:
        try:
            found = engine.decode(prompts(48), 8, 200).counters
        except VllmError as error:
            assert "Synthetic acceptance not supported with CPU sampling" in str(error)
            return
    drafts, accepted = (found[f"vllm:spec_decode_num_{name}"] for name in ("drafts", "accepted_tokens"))
    assert 1 + accepted / drafts == pytest.approx(profile["mean_accept_length"], rel=0.02)


def test_an_engine_drafts_as_the_schedule_says():
    """Gamma 3 up to two requests in flight, then none; texts are the same."""
    found = schedule_of({1: {0: 10, 3: 20}, 4: {0: 40, 3: 30}})
    assert found.ranges == [(1, 2, 3), (3, 4, 0)]
    settings = speculative_config(DRAFT, found.longest) | {KEY: found.ranges}
    with with_model(settings, 4) as engine:
        few, many = (engine.decode(prompts(8), concurrency, 24) for concurrency in (1, 4))
    drafts, drafted = (
        [one.counters[f"vllm:spec_decode_num_{name}"] for one in (few, many)]
        for name in ("drafts", "draft_tokens")
    )
    assert drafts[0] > 60 and drafted[0] == 3 * drafts[0]
    # With the last requests, fewer than three are in flight.
    assert drafts[1] < 0.2 * drafts[0]
    assert [r.token_ids for r in few.requests] == [r.token_ids for r in many.requests]


def test_a_decoder_lm_is_loaded_whole_and_refused_trimmed(tmp_path):
    """With its whole LM head it drafts, round by round, what our loop drafts."""
    pair = load_pair(
        PairConfig(None, "smollm2-135m-instruct", "smollm2-135m-sibling"), CpuDevice(), "float32"
    )
    decoder, size = Decoder(pair.target, 40), pair.target.vocab_size
    asked = [pair.target.encode(user_prompt("p", text)) for text in ("Name three rivers.", "Add 2 and 3.")]

    def settings(name, ids):
        trim_decoder_lm(pair.draft_folder, DraftVocab(ids, size), lambda: pair.target_folder, tmp_path / name)
        draft = str(tmp_path / name / "draft")
        return {"method": "draft_model", "model": draft, "num_speculative_tokens": GAMMA}

    with with_model(settings("whole", np.arange(size)), 1) as engine:
        served = engine.decode(asked, 1, 40)
    for ids, request in zip(asked, served.requests, strict=True):
        decoded = decoder.speculative(
            decoder.prefill(ids), pair.draft, pair.draft.full_head(), GAMMA, Timeline(lambda: None)
        )
        assert request.token_ids == decoded.token_ids
        # The first token comes with the prompt; how the last round ends, each counts in its own way.
        ours = [1 + number for number in decoded.accepted]
        assert request.num_new[1:-1] == ours[: len(request.num_new) - 2]
    with pytest.raises(VllmError, match="d2t"), with_model(settings("trimmed", np.arange(4096)), 1):
        pass
