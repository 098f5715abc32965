"""What comes out of speculative sampling follows the target, whatever the draft's vocabulary."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, chisquare, ncx2

from bench.decoding.decoder import Decoder
from bench.decoding.rounds import Timeline
from bench.decoding.rules import SampledRule, Sampler, sample, verify
from bench.vocab.draft_vocab import DraftVocab
from tests.conftest import VOCAB_SIZE, make_draft, make_target

V, ROUNDS = 12, 400_000
SIGNIFICANCE = 1e-3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def exponential(rng, *shape):
    return torch.empty(*shape).exponential_(generator=rng)


def drawn(probs, rng):
    return sample(probs, exponential(rng, *probs.shape))


def verified(target_probs, drafted, draft_probs, ids, rng):
    rounds, gamma = drafted.shape
    uniform = torch.rand(rounds, gamma, generator=rng)
    return verify(target_probs, drafted, draft_probs, ids, uniform, exponential(rng, rounds, V))


def distributions(seed=0):
    """The target's distribution after nothing, and after each first token; sharp, as targets are."""
    logits = torch.randn(1 + V, V, generator=generator(seed)) * 1.5
    return torch.softmax(logits, dim=-1)


def emitted(kept, replace_wrongly=None):
    """First token of many rounds that draft two tokens from the vocabulary `kept`."""
    target = distributions(0)
    draft_logits = torch.randn(1 + V, V, generator=generator(1))
    ids = torch.tensor(kept)
    proposal = torch.softmax(draft_logits[:, ids], dim=-1)
    rng = generator(2)
    first = drawn(proposal[:1].expand(ROUNDS, -1), rng)
    second = drawn(proposal[1 + ids[first]], rng)
    after = torch.stack([target[:1].expand(ROUNDS, -1), target[1 + ids[first]], target[1 + ids[second]]], 1)
    probs = torch.stack([proposal[:1].expand(ROUNDS, -1), proposal[1 + ids[first]]], 1)
    count, following = verified(after, torch.stack([first, second], 1), probs, ids, rng)
    if replace_wrongly:
        return replace_wrongly(count, following, ids, first, target, rng)
    return torch.where(count > 0, ids[first], following), torch.where(
        count > 1, ids[second], torch.where(count == 1, following, -1)
    )


def p_value(tokens, probs):
    counts = np.bincount(tokens.numpy(), minlength=len(probs))
    return chisquare(counts, probs.double().numpy() / probs.double().sum().item() * counts.sum()).pvalue


def test_the_test_finds_a_bias_of_one_percent():
    """Power of the chi-square test when 1% of all tokens go to one token that should not have them."""
    probs = distributions()[0].double().numpy()
    biased = 0.99 * probs + 0.01 * np.eye(V)[int(probs.argmin())]
    noncentrality = ROUNDS * ((biased - probs) ** 2 / probs).sum()
    power = 1 - ncx2.cdf(chi2.ppf(1 - SIGNIFICANCE, V - 1), V - 1, noncentrality)
    assert power > 0.99


@pytest.mark.parametrize("kept", [[0, 3], [1, 2, 5, 7, 11], list(range(V))])
def test_the_first_token_follows_the_target(kept):
    first, _ = emitted(kept)
    assert p_value(first, distributions()[0]) > SIGNIFICANCE


@pytest.mark.parametrize("kept", [[0, 3, 4, 8], list(range(V))])
def test_the_second_token_follows_the_target_given_the_first(kept):
    first, second = emitted(kept)
    for token in kept:
        chosen = second[(first == token) & (second >= 0)]
        if len(chosen) > 20_000:
            # Rounds that end with the first token tell nothing of the second.
            assert p_value(chosen, distributions()[1 + token]) > SIGNIFICANCE / len(kept)


def accept_always(count, following, ids, first, target, rng):
    return ids[first]


def residual_inside_the_draft_only(count, following, ids, first, target, rng):
    inside = torch.zeros(V)
    inside[ids] = 1
    again = drawn((target[0] * inside)[None].expand(len(first), -1), rng)
    return torch.where(count > 0, ids[first], torch.where(inside[following] > 0, following, again))


@pytest.mark.parametrize("wrong", [accept_always, residual_inside_the_draft_only])
def test_wrong_rules_are_found_out(wrong):
    tokens = emitted([1, 2, 5, 7, 11], wrong)
    probs = distributions()[0]
    assert p_value(tokens, probs) < SIGNIFICANCE


@pytest.mark.parametrize(("size", "cut"), [(VOCAB_SIZE, {}), (3, {"top_k": 5}), (20, {"top_p": 0.7})])
def test_decoding_follows_the_target(size, cut):
    """The first three tokens of the speculative loop, against the target's own probabilities."""
    target = make_target()
    draft = make_draft(target)
    sampler = Sampler(0.6, **cut)
    rule = SampledRule(sampler, torch.device("cpu"))
    rule.reseed(0)
    decoder, head = Decoder(target, 3, rule), draft.head(DraftVocab(np.arange(size), VOCAB_SIZE))
    prefill = decoder.prefill([5, 9, 33])
    samples = [
        tuple(decoder.speculative(prefill, draft, head, 2, Timeline(lambda: None)).token_ids[1:])
        for _ in range(1000)
    ]
    expected = joint_of_two(target, sampler, [5, 9, 33, int(prefill.first_id)])
    # Rare pairs are put together, as the test needs some of each.
    common = {pair: p for pair, p in expected.items() if p * len(samples) >= 8}
    counts = [sum(s == pair for s in samples) for pair in common]
    observed = [*counts, len(samples) - sum(counts)]
    rest = max(1 - sum(common.values()), 1e-12)
    wanted = np.array([*common.values(), rest])
    if rest * len(samples) < 1:
        observed, wanted = observed[:-1], wanted[:-1]
    assert len(wanted) > 3
    assert chisquare(observed, wanted / wanted.sum() * sum(observed)).pvalue > SIGNIFICANCE


@torch.inference_mode()
def joint_of_two(target, sampler, text):
    def probs_after(ids):
        output = target.forward(torch.tensor([ids]), target.new_cache())
        return sampler.target_probs(target.lm_head(output.hidden[:, -1]))[0].double().numpy()

    found = {}
    for first, p in enumerate(probs_after(text)):
        if p < 1e-4:
            continue
        if first in target.eos_token_ids():
            found[first,] = p
            continue
        for second, q in enumerate(probs_after([*text, first])):
            found[first, second] = p * q
    return found


def test_cuts_by_hand():
    logits = torch.log(torch.tensor([0.1, 0.4, 0.3, 0.2]))
    assert Sampler(1.0).target_probs(logits).tolist() == pytest.approx([0.1, 0.4, 0.3, 0.2])
    assert Sampler(0.5).target_probs(logits).tolist() == pytest.approx([1 / 30, 16 / 30, 9 / 30, 4 / 30])
    assert Sampler(1.0, top_k=2).target_probs(logits).tolist() == pytest.approx([0, 4 / 7, 3 / 7, 0])
    # 0.4 alone does not reach 0.5; with 0.3 it does.
    assert Sampler(1.0, top_p=0.5).target_probs(logits).tolist() == pytest.approx([0, 4 / 7, 3 / 7, 0])
    assert Sampler(1.0, top_p=0.39).target_probs(logits).tolist() == pytest.approx([0, 1, 0, 0])
    assert Sampler(1.0, 3, 0.75).target_probs(logits).tolist() == pytest.approx([0, 4 / 7, 3 / 7, 0])
    ties = torch.zeros(4)
    assert Sampler(1.0, top_k=2).target_probs(ties).tolist() == [0.5, 0.5, 0, 0]


def test_a_draft_equal_to_the_target_is_always_accepted():
    probs = distributions()[:1].expand(1000, -1)
    drafted = drawn(probs, generator())
    both = torch.stack([probs, probs], 1)
    count, following = verified(both, drafted[:, None], probs[:, None], None, generator(1))
    assert (count == 1).all() and (following >= 0).all()


def test_temperature_0_is_no_sampling():
    with pytest.raises(ValueError, match="greedy"):
        Sampler(0.0)
