"""A split that depends on each prompt alone: it survives growth and holds groups together."""

from hypothesis import given
from hypothesis import strategies as st

from bench.text.conversation import Split, take_split, unit_hash, user_prompt


def test_adding_prompts_moves_none_of_the_others():
    few = [user_prompt(f"p{i}", f"text {i}") for i in range(300)]
    more = few + [user_prompt(f"q{i}", f"other {i}") for i in range(300)]
    for side in Split:
        kept = [p for p in take_split(more, side, 0, 0.2) if p.prompt_id.startswith("p")]
        assert kept == take_split(few, side, 0, 0.2)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), st.integers(0, 20))
def test_groups_lie_whole_on_one_side(groups, seed):
    prompts = [user_prompt(f"p{i}", f"wording {i}", group) for i, group in enumerate(groups)]
    ranking, held_out = (take_split(prompts, side, seed, 0.5) for side in Split)
    assert len(ranking) + len(held_out) == len(prompts)
    assert not {p.group for p in ranking} & {p.group for p in held_out}


def test_prompts_of_the_same_text_share_a_group_unless_given_one():
    assert user_prompt("a", "same").group == user_prompt("b", "same").group == "same"
    assert user_prompt("a", "same", "").group == ""


def test_the_hash_is_the_same_on_every_machine_and_keeps_its_parts_apart():
    # The first eight bytes of sha256("split\x1f0\x1fx"), over 2**64.
    assert unit_hash("split", 0, "x") == 0xD77E908EB24BB598 / 2**64
    assert unit_hash("a", "bc") != unit_hash("ab", "c")
