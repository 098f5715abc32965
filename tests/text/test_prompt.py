from hypothesis import given
from hypothesis import strategies as st

from bench.text.conversation import Split, split_of, take_split, user_prompt

PROMPTS = [user_prompt(f"p{i}", f"text {i}") for i in range(5000)]


def test_both_sides_together_are_everything_and_the_share_holds():
    ranking = take_split(PROMPTS, Split.RANKING, seed=0, held_out_share=0.2)
    held_out = take_split(PROMPTS, Split.HELD_OUT, seed=0, held_out_share=0.2)
    assert {p.prompt_id for p in ranking} | {p.prompt_id for p in held_out} == {p.prompt_id for p in PROMPTS}
    assert len(ranking) + len(held_out) == 5000
    assert 900 < len(held_out) < 1100


def test_order_in_the_source_does_not_matter_and_the_seed_does():
    forward = take_split(PROMPTS, Split.HELD_OUT, 3, 0.1)
    assert take_split(PROMPTS[::-1], Split.HELD_OUT, 3, 0.1) == forward
    assert take_split(PROMPTS, Split.HELD_OUT, 4, 0.1) != forward


@given(st.text(), st.integers(0, 9), st.floats(0.01, 0.99))
def test_a_group_never_straddles_the_split(group, seed, share):
    sides = {split_of(user_prompt(f"id{i}", f"wording {i}", group), seed, share) for i in range(5)}
    assert len(sides) == 1
