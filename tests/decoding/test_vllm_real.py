"""The embedded pair in a real vLLM: `make test-vllm` installs it."""

import numpy as np
import pytest

from bench.analysis.engine_parts import parts_frame
from bench.analysis.engines import round_frame, served_frame
from bench.analysis.run import read_run
from bench.decoding.vllm_engine import ENVIRONMENT, vllm_process, vllm_settings
from bench.decoding.vllm_server import vllm_server
from bench.export.bundle import speculative_config
from bench.export.checkpoint import borrowed_head, trim_eagle3
from bench.models.checkpoint import SHIPPED
from bench.models.draft_config import Layout
from bench.models.target import resolve_target
from bench.text.tokenizer import read_tokenizer
from bench.variant import Variant
from bench.vocab.draft_vocab import DraftVocab
from tests.test_cli import run

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (ENVIRONMENT / "bin" / "python").exists(), reason="vLLM is not installed here"),
]

TRIMMED = Variant(2048, 2)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    results = tmp_path_factory.mktemp("vllm")
    done = run(
        *("experiment=smoke", "domain=function_calling", "gpu=cpu", "dtype=float32", "timing.isolated=false"),
        *("engine=own,vllm", "vllm.concurrency=[1,4]", "vllm.num_processes=2", "vllm.contexts=[256]"),
        "vllm.temperatures=[0.8]",
        f"measure.also_decode=['{TRIMMED.vocab_size}:{TRIMMED.draft_length}']",
        f"results_dir={results}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (path for path in (results / "runs").iterdir() if not path.is_symlink())
    return read_run(folder), (folder / "report.md").read_text("utf-8")


def test_texts_and_acceptance_are_those_of_our_loop(measured):
    """In float32 the two engines compute the same, whatever the vocabulary and the draft length."""
    everything = served_frame(measured[0])
    found = everything[everything["temperature"].isna() & everything["context_tokens"].isna()]
    drafts = found[found["draft_length"] > 0]
    assert (TRIMMED.vocab_size, TRIMMED.draft_length) in set(
        zip(drafts["vocab_size"], drafts["draft_length"], strict=True)
    )
    assert set(found["identical_output_frac"]) == {1.0}
    assert drafts["acceptance_agrees"].all(), drafts["acceptance_difference"].tolist()
    assert set(found["concurrency"]) == {1, 4} and set(found["num_processes"]) == {2}
    # Also after a long context, drafts change nothing of what is decoded greedily.
    longer = everything[everything["context_tokens"] == 256]
    assert set(longer["identical_output_frac"].dropna()) == {1.0}
    sampled = everything[everything["temperature"] == 0.8]
    assert len(sampled) and sampled["identical_output_frac"].isna().all()
    assert (sampled[sampled["draft_length"] > 0]["mean_acceptance_length"] >= 1).all()


def test_every_round_accepts_what_ours_accepts(measured):
    found, compared = measured[0], 0
    (domain,) = found.served
    for record in found.served[domain]:
        is_other = record.temperature or record.context_tokens or record.texts
        if record.variant.is_plain or record.concurrency > 1 or is_other:
            continue
        for prompt, new in zip(record.prompt_ids, record.num_new, strict=True):
            ours = found.decodes[domain][record.variant][prompt].accepted
            # The longest answer cuts what arrives of the last round.
            assert [count - 1 for count in new[1:-1]] == ours[: len(new) - 2]
            compared += 1
    assert compared


def test_the_page_says_what_a_round_takes_in_both(measured):
    found, page = measured
    assert set(round_frame(found)["engine"]) == {"own", "vllm"}
    assert "Does the gain hold in vllm" in page and "A round of vllm takes" in page


def test_a_round_of_vllm_is_split(measured):
    parts = parts_frame(measured[0])
    vllm = parts[parts["engine"] == "vllm"]
    assert (vllm["part_verify_ms"] > 0).all() and (vllm["num_rounds"] > 0).all()
    full = vllm[(vllm["draft_length"] > 0) & (vllm["vocab_size"] > TRIMMED.vocab_size)]
    (trimmed,) = vllm[vllm["vocab_size"] == TRIMMED.vocab_size].to_dict("records")
    assert (full["part_head_ms"] > trimmed["part_head_ms"]).all()
    # Calls alone take time there with the full vocabulary too, now and then more than the writing.
    assert trimmed["part_scatter_ms"] > 0


def test_a_server_under_load_decodes_what_the_engine_decodes(tmp_path):
    """The same prompts in `vllm serve`, loaded by `vllm bench serve`, and in the offline engine."""
    target, draft = resolve_target("smollm2-135m-instruct"), SHIPPED / "smollm2-135m-eagle3"
    tokenizer = read_tokenizer(target)
    texts = ["Write a Python function that adds two numbers.", "What is the capital of France?"]
    chats = [[{"role": "user", "content": text}] for text in texts]
    prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]
    vocab = DraftVocab(np.arange(TRIMMED.vocab_size), tokenizer.vocab_size)
    head = borrowed_head(draft, lambda: target)
    trim_eagle3(draft, vocab, head, Layout.SAFEAILAB, tmp_path / "draft", str(target))
    speculative = speculative_config(tmp_path / "draft", TRIMMED.draft_length)
    settings = vllm_settings(target, "float32", 256, 2, speculative, is_on_cpu=True)
    with vllm_process(settings) as engine:
        offline = engine.decode(prompts, 1, 24)
    with vllm_server(settings, tokenizer.decode) as server:
        server.warm_up(prompts)
        loads = {concurrency: server.decode(prompts, concurrency, 24) for concurrency in (1, 2)}
    for load in loads.values():
        for alone, request in zip(offline.requests, load.requests, strict=True):
            assert request.text == tokenizer.decode(alone.token_ids, skip_special_tokens=True)
            assert request.num_tokens == len(alone.token_ids) and len(request.at_ms) >= len(alone.at_ms) - 1
            assert request.at_ms == sorted(request.at_ms) and request.at_ms[-1] <= load.wall_ms
    drafts = "vllm:spec_decode_num_drafts"
    assert loads[1].counters == offline.counters and loads[2].counters[drafts] == offline.counters[drafts]
