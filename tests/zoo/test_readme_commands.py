"""The README's commands on a tiny pair with a pickled draft of 32,000 tokens, from a hub on loopback."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from bench.models.fetching import resolve_tokenizer
from tests.conftest import make_llama
from tests.hub import environment, serving
from tests.zoo.drafts import EAGLE, SAFEAILAB, weights

pytestmark = pytest.mark.slow

V, K = 49152, 32000
PAIR = ("pair=custom", "pair.target=tiny/target")


def own_tokens() -> list[int]:
    """The special tokens, which come first, and a random choice of the others."""
    order = torch.randperm(V - 20, generator=torch.Generator().manual_seed(1)) + 20
    return sorted([*range(20), *order[: K - 20].tolist()])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a hub of three models, prompts, and a way to run a command there."""
    root = tmp_path_factory.mktemp("readme")
    hub = root / "hub"
    target = make_llama(eos=2, vocab_size=V, max_position_embeddings=2048, bos_token_id=1, pad_token_id=None)
    target.save_pretrained(hub / "tiny/target")
    tokenizer = AutoTokenizer.from_pretrained(resolve_tokenizer("smollm2-135m-instruct"))
    tokenizer.save_pretrained(hub / "tiny/target")
    eagle3 = {**SAFEAILAB, "vocab_size": V, "draft_vocab_size": K}
    for name, values, kind, own in (
        ("tiny/EAGLE3", eagle3, "eagle3", own_tokens()),
        ("tiny/EAGLE", {**EAGLE, "vocab_size": V, "architectures": ["LlamaForCausalLMEagle"]}, "eagle", None),
    ):
        folder = hub / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(values))
        torch.save(weights(values, kind, own=own, total=V), folder / "pytorch_model.bin")
    lines = (json.dumps({"prompt": f"Question {i}: what is {i} plus {3 * i}?"}) for i in range(40))
    (root / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    with serving(hub) as served:
        variables = {**os.environ, **environment(served, root / "home"), "OMP_NUM_THREADS": "1"}

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "bench", *arguments, f"results_dir={root / 'results'}"]
            return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)

        yield root, run, served


def done(finished: subprocess.CompletedProcess[str]) -> str:
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "Traceback" not in finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.timeout(1800)
def test_every_command_runs_on_a_draft_of_32000_tokens(place):
    root, run, served = place
    pair, text = (*PAIR, "pair.draft=tiny/EAGLE3"), ("domain=jsonl", f"domain.path={root / 'prompts.jsonl'}")
    sizes = "vocab.sizes=[full,40960,8192,1024]"
    told = done(run("task=check", *pair))
    assert "draft: an EAGLE-3 draft" in told and "map: not audited" in told
    assert not [path for path in served.fetched if path.endswith(("bin", "safetensors"))]
    told = " ".join(done(run("experiment=smoke", "gpu=cpu", sizes, *pair, *text)).split())
    assert f"left out 40,960, more than the {K:,} tokens of the draft" in told
    assert done(run("task=report", "run=latest")) and done(run("task=fit", "run=latest"))
    told = done(run("task=export", "run=latest"))
    assert "vllm serve tiny/target" in told and "--speculative-algorithm EAGLE3" in told
    done(run("task=select", "select.trials=10", "gpu=cpu", *pair, *text))
    summary = json.loads(next((root / "results/vocab").glob("*/summary.json")).read_text())
    assert summary["draft_vocab_size"] == K and summary["vocab_size"] <= K
    assert 0 < summary["coverage_train"] <= summary["coverage_ceiling_train"] < 1
    trimmed = next((root / "results/vocab").glob("*/exports/draft"))
    told = done(run("task=check", *PAIR, f"pair.draft={trimmed}"))
    assert "in order and in range" in told and "8 tensor-parallel ranks hold" in told
    done(run("task=predict", "gpu=h100-sxm", f"predict.run={root / 'results/runs/latest'}", *pair))
    quick = ("draft.context_length=16", "timing.budget_s=0.01", "gpu=cpu")
    done(run("task=draft", "pair.draft=tiny/target", *quick))
    assert any("-target-draft-cpu-" in path.name for path in (root / "results/runs").iterdir())


@pytest.mark.timeout(900)
def test_an_older_eagle_draft_is_measured_and_its_heads_rows_are_the_targets(place):
    root, run, _ = place
    pair, text = (*PAIR, "pair.draft=tiny/EAGLE"), ("domain=jsonl", f"domain.path={root / 'prompts.jsonl'}")
    done(run("experiment=smoke", "gpu=cpu", "timing.isolated=false", *pair, *text))
    told = done(run("task=export", "run=latest"))
    assert "vLLM: not loaded as measured" in told and "--speculative-token-map" in told
    done(run("task=select", "select.trials=10", "gpu=cpu", f"out={root / 'eagle'}", *pair, *text))
    head = load_file(root / "eagle/exports/lm_head/lm_head.safetensors")
    embedding = load_file(root / "hub/tiny/target/model.safetensors")["model.embed_tokens.weight"]
    ids = torch.arange(len(head["d2t"])) + head["d2t"]
    assert torch.equal(head["lm_head.weight"], embedding[ids])
