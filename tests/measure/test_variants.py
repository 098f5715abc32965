from bench.measure.variants import Variant, make_variants, shuffled


def test_plain_decoding_and_every_combination():
    assert make_variants([64, 8], [5, 2], 64) == [
        Variant(64, 0),
        Variant(64, 2),
        Variant(64, 5),
        Variant(8, 2),
        Variant(8, 5),
    ]


def test_order_is_seeded_and_differs_between_prompts():
    variants = make_variants([64, 32, 16, 8], [1, 2], 64)
    first = shuffled(variants, 0, "code", "a")
    assert first == shuffled(variants, 0, "code", "a")
    assert sorted(first) == sorted(variants)
    assert first != shuffled(variants, 0, "code", "b")
    assert first != shuffled(variants, 1, "code", "a")


def test_no_variant_is_favoured_over_many_prompts():
    variants = make_variants([64, 32, 16], [3], 64)
    places = {v: [shuffled(variants, 0, p).index(v) for p in range(400)] for v in variants}
    for found in places.values():
        assert abs(sum(found) / 400 - 1.5) < 0.25
