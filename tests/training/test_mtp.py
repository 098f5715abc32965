"""The trainer of an MTP module: what it sees is what a real one sees, from states that were read again."""

import json

import pytest
import torch
from safetensors.torch import load_file

from bench.decoding.answers import prompt_key
from bench.errors import AssetError
from bench.identity import WEIGHTS, Identity
from bench.models.draft import Placement
from bench.models.draft_config import LAST
from bench.models.mtp import load_mtp, save_mtp
from bench.models.target import load_target
from bench.text.conversation import user_prompt
from bench.training import collect as collect_module
from bench.training.collect import CONTEXT_TOKENS, restate
from bench.training.data import load_sequences, make_batch
from bench.training.held_out import copy_held_out
from bench.training.plan import Job
from bench.training.trainer import Objective, new_mtp
from tests.zoo.targets import Row

PROMPTS = tuple(user_prompt(f"p{i}", f"w{i} w{i + 7} w9") for i in range(5, 8))
ANSWERS = [[[9, 12, 40, 33, 1], [10, 11, 12]], [[20, 21, 22, 23]], []]
MADE_BY = Identity({WEIGHTS: "abc"})


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A target, and shards of known answers to prompts, one of which has none."""
    Row("target", "llama").write(tmp_path)
    target = load_target(tmp_path, torch.device("cpu"), torch.float32)
    target.keep_features((LAST,))
    jobs = [Job("code-00001", "code", PROMPTS, (0.0, 0.8)), Job("unknown", "code", PROMPTS[2:], (0.0,))]
    monkeypatch.setattr(collect_module, "jobs", lambda: iter(jobs))
    known = {prompt_key("abc", p): a for p, a in zip(PROMPTS, ANSWERS, strict=True) if a}
    restate(target, tmp_path / "shards", MADE_BY, known, None)
    return target, tmp_path


@torch.inference_mode()
def test_states_of_known_answers_are_those_of_one_pass_over_each(made):
    target, folder = made
    assert [path.name for path in (folder / "shards").glob("*.safetensors")] == ["code-00001.safetensors"]
    found = load_sequences(folder / "shards")
    wanted = [(p, answer) for p, answers in zip(PROMPTS, ANSWERS, strict=True) for answer in answers]
    assert len(found) == len(wanted) == 3
    for sequence, (prompt, answer) in zip(found, wanted, strict=True):
        ids = target.encode(prompt)
        assert sequence.tokens.tolist() == [*ids, *answer] and sequence.num_context == len(ids)
        output = target.forward(sequence.tokens[None, :-1], target.new_cache())
        # Hidden states alone: they are the features.
        torch.testing.assert_close(sequence.states.float(), output.hidden[0], atol=0.02, rtol=0.02)
    with pytest.raises(AssetError, match="have another features"):
        target.keep_features((1, 2))
        restate(target, folder / "shards", MADE_BY, {}, None)


def test_every_depth_of_the_training_equals_a_real_chain(made):
    target, folder = made
    torch.manual_seed(0)
    body = new_mtp(target, load_file(folder / "model.safetensors"))
    outputs = []

    class Spy(Objective):
        def _judge(self, truth, hidden, head, depth):
            outputs.append(hidden.detach())
            return super()._judge(truth, hidden, head, depth)

    (item, *_) = load_sequences(folder / "shards")
    Spy(body, target.embedding_weight, target.head_weight, 3)(
        make_batch([item], target.config.hidden_size), torch.arange(target.vocab_size)
    )
    out = folder / "module"
    save_mtp(body, out, {"format": "pt"})
    draft = load_mtp(out, Placement.beside(target))
    # The file is in bfloat16.
    states = item.states.float()[None]
    with torch.inference_mode():
        start = item.num_context - 1
        draft.reset()
        hidden = draft.extend(item.tokens[1 : start + 2], states[:, : start + 1])
        assert item.num_context < CONTEXT_TOKENS
        torch.testing.assert_close(outputs[0][0, 0], hidden[0, 0], atol=0.05, rtol=0.05)
        for depth in (1, 2):
            hidden = draft.step(item.tokens[start + depth + 1 : start + depth + 2], hidden)
            torch.testing.assert_close(outputs[depth][0, 0], hidden[0, 0], atol=0.05, rtol=0.05)


def test_answers_to_held_out_prompts_are_taken_over_only_as_they_were_published(tmp_path):
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"answers_sha256": {}, "kind": name}))
    with pytest.raises(AssetError, match="is not there, or not that of its manifest"):
        copy_held_out(tmp_path / "from", tmp_path / "to")
