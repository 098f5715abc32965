from collections import Counter

import pytest

from bench.decoding.rounds import probes_of, shuffled
from bench.variant import Variant

EIGHT = [Variant(size, gamma) for size in (64, 32, 16, 8) for gamma in (1, 2)]
THREE = [Variant(size, 3) for size in (64, 32, 16)]


@pytest.mark.parametrize(("num_sizes", "num_lengths"), [(1, 1), (2, 6), (6, 6), (11, 4)])
def test_every_size_and_every_draft_length_is_probed_at_least_twice(num_sizes, num_lengths):
    probes = probes_of(range(10, 10 + num_sizes), range(1, 1 + num_lengths), 0, "code", "p")
    sizes, lengths = (Counter(getattr(p, name) for p in probes) for name in ("vocab_size", "draft_length"))
    assert len(sizes) == num_sizes and min(sizes.values()) >= 2
    assert len(lengths) == num_lengths and min(lengths.values()) >= 2
    assert len(probes) == 2 * max(num_sizes, num_lengths)


def test_order_is_seeded_and_differs_between_prompts():
    variants = EIGHT
    first = shuffled(variants, 0, "code", "a")
    assert first == shuffled(variants, 0, "code", "a")
    assert sorted(first) == sorted(variants)
    assert first != shuffled(variants, 0, "code", "b")
    assert first != shuffled(variants, 1, "code", "a")


def test_no_variant_is_favoured_over_many_prompts():
    variants = THREE
    places = {v: [shuffled(variants, 0, p).index(v) for p in range(400)] for v in variants}
    for found in places.values():
        assert abs(sum(found) / 400 - 1) < 0.2
