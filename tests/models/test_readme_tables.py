from bench.models.__main__ import README, with_tables


def test_the_note_holds_the_rules_that_decide():
    text = README.read_text("utf-8")
    assert with_tables(text) == text, "run: python -m bench.models"
    for mark in ("drafts", "targets", "lean"):
        assert text.count(f"<!-- {mark} -->") == text.count(f"<!-- end of {mark} -->") == 1
