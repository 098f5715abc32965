"""Every draft of the zoo runs and equals a plain reference, or is refused with the reason."""

from importlib.util import find_spec

import pytest
import torch

from bench.config import PairConfig
from bench.errors import BenchError
from bench.models.checkpoint import load_draft
from bench.models.draft import Placement
from bench.runs.pair import placement_of
from tests.conftest import VOCAB_SIZE, make_llama, make_target
from tests.zoo.draft_rows import REFUSED, RUNS
from tests.zoo.drafts import OWN, Row
from tests.zoo.reference import ReferenceDraft, assert_chains

LENGTH, DEPTHS = 14, 3


@pytest.fixture(scope="module")
def text():
    """Token ids, and the hidden states of `transformers` itself over them, normed last ones included."""
    ids = torch.randint(2, VOCAB_SIZE, (LENGTH,), generator=torch.Generator().manual_seed(1))
    model = make_llama()
    kept = {}
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda _m, inputs, at=index: kept.__setitem__(at, inputs[0][0]))
    with torch.inference_mode():
        output = model.model(ids[None], output_hidden_states=True)
        last = model.model.layers[-1]
        last.register_forward_hook(
            lambda _m, _i, out: kept.__setitem__(8, (out[0] if isinstance(out, tuple) else out)[0])
        )
        model.model(ids[None])
    return ids, {**kept, -1: output.last_hidden_state[0]}


def placement(row: Row, target) -> Placement:
    return Placement.beside(target, **placement_of(PairConfig("pair", "t", "d", **row.options)))


def test_the_zoo_is_large_enough():
    names = [row.name for row in (*RUNS, *REFUSED)]
    assert len(set(names)) == len(names) and len(names) >= 40


@pytest.mark.parametrize("row", RUNS, ids=lambda row: row.name)
@torch.inference_mode()
def test_a_draft_that_runs_equals_the_reference(row, text, tmp_path):
    target = make_target()
    draft = load_draft(row.write(tmp_path), placement(row, target))
    assert draft.feature_layers == row.layers
    for words in row.notes:
        assert any(words in note for note in draft.notes), draft.notes
    assert bool(draft.notes) == bool(row.notes)
    target.keep_features(draft.feature_layers)
    ids, states = text
    # The target's own pass gives what `transformers` says of the same layers.
    output = target.forward(ids[None], target.new_cache())
    expected = torch.cat([states[layer] for layer in row.layers], dim=-1)
    torch.testing.assert_close(output.features[0], expected, rtol=1e-4, atol=1e-5)
    features = output.features[:, :-1]
    reference = ReferenceDraft(row.values, row.tensors, row.kind, target.embedding_weight, target.head_weight)
    kept = OWN if "d2t" in row.tensors else range(VOCAB_SIZE)
    assert draft.vocab.target_ids.tolist() == list(kept)
    head, places = draft.full_head(), (3, 7, LENGTH - 1 - DEPTHS)
    truth = {
        (place, depth): reference.chain(ids, features[0], place, depth)
        for place in places
        for depth in range(DEPTHS)
    }
    found = assert_chains(draft, ids, features, truth, atol=2e-4)
    # What it drafts, and what the target would accept, follow.
    assert all(
        head.select(found[at][None])[0] == torch.tensor(list(kept))[truth[at].argmax()] for at in truth
    )
    # Compiled layers, which some drafts have, compute the same.
    if find_spec("numba"):
        assert draft.fused_obstacle is None
        draft.fuse(True)
        assert_chains(draft, ids, features, truth, atol=2e-4)


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_a_draft_that_cannot_run_is_refused_in_one_line(row, tmp_path):
    with pytest.raises(BenchError, match=row.refusal) as caught:
        load_draft(row.write(tmp_path), placement(row, make_target()))
    assert "\n" not in str(caught.value)
