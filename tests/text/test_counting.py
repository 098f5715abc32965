"""Counts against a slow count done here, on hard text, in one process and in several."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config import DomainSource, Responses, Source, VocabConfig
from bench.text import encoding
from bench.text.conversation import Conversation, Message, Split, from_messages, split_of
from bench.text.counting import CountSettings, block_counts, count_responses
from bench.text.domain_counts import count_domain
from bench.text.encoding import Cuts, InexactError, ResponseEncoder
from bench.text.responses import Asked, ResponseFinder

SETTINGS = CountSettings(split_seed=0, held_out_share=0.3, plain_text=False)
PIECES = [
    "def f(x):\n    return x",
    "a  b",
    "\n\n",
    "naïve café",
    "東京 2024",
    "😀!",
    "x\t y",
    "1,234.5",
    "it's",
    "</s>",
    "<|im_start|>",
    "...",
    " ",
]


def conversation(number: int, *contents: str) -> Conversation:
    messages = [
        Message("user" if i % 2 == 0 else "assistant", c) for i, c in enumerate((f"ask {number}", *contents))
    ]
    return from_messages(f"c:{number}", messages)


def hard_conversations(count: int, seed: int = 0) -> list[Conversation]:
    rng = random.Random(seed)

    def text() -> str:
        return " ".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))

    return [conversation(i, *(text() for _ in range(rng.choice([1, 1, 3])))) for i in range(count)]


def slow_counts(conversations, target, side: Split) -> np.ndarray:
    """By the plain tokenizer, response by response; the line break after the end is no response."""
    finder, counts = ResponseFinder(target.tokenizer), np.zeros(target.vocab_size, dtype=np.int64)
    for c in conversations:
        if split_of(c, SETTINGS.split_seed, SETTINGS.held_out_share) is not side:
            continue
        turns = [m.as_turn() for m in c.messages]
        for response in finder.responses([Asked(turns)])[0]:
            ids = target.tokenizer.encode(response.text.removesuffix("\n"), add_special_tokens=False)
            counts += np.bincount(ids, minlength=target.vocab_size)
    return counts


@pytest.mark.parametrize("num_conversations", [40, 2500])
def test_counts_equal_those_of_the_plain_tokenizer(target, num_conversations):
    conversations = hard_conversations(num_conversations)
    found = count_responses(lambda: iter(conversations), target, SETTINGS, num_processes=2)
    assert found.num_conversations == num_conversations
    for side, counts in ((Split.RANKING, found.ranking), (Split.HELD_OUT, found.held_out)):
        assert (counts.total() == slow_counts(conversations, target, side)).all()


def test_every_response_counts_its_end_of_turn_once(target):
    found = count_responses(lambda: iter([conversation(1, "a", "b", "c")]), target, SETTINGS)
    total = found.ranking.total() + found.held_out.total()
    (end,) = target.tokenizer.encode("<|im_end|>", add_special_tokens=False)
    assert total[end] == 2
    assert total[target.tokenizer.encode("ask", add_special_tokens=False)[0]] == 0


def test_the_same_conversations_in_any_order_give_the_same_blocks(target):
    conversations = hard_conversations(60, seed=1)
    first = count_responses(lambda: iter(conversations), target, SETTINGS)
    again = count_responses(lambda: iter(conversations[::-1]), target, SETTINGS)
    for name in ("block_ids", "token_ids", "counts"):
        assert (getattr(first.held_out, name) == getattr(again.held_out, name)).all()
    assert first.ranking.num_blocks > 30


def test_conversations_without_a_response_count_nothing(target):
    found = count_responses(lambda: iter([conversation(1), conversation(2, "x")]), target, SETTINGS)
    assert found.num_conversations == 1


def test_a_tokenizer_that_reads_over_words_is_tokenized_whole(target):
    """One whose merges cross spaces: remembering words would be wrong, and is noticed."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="?"))
    texts = ["to be or not to be that is it"] * 50
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["?", "<|im_end|>"], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    crossing = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    with pytest.raises(InexactError):
        ResponseEncoder(crossing, "<|im_end|>", 1, Cuts.SPACES).encode(texts[:1])
    whole, _ = ResponseEncoder(crossing, "<|im_end|>", 1, Cuts.NOWHERE).encode([texts[0] + "<|im_end|>"])
    assert list(whole) == crossing.encode(texts[0], add_special_tokens=False) + [1]
    crossing.chat_template = target.tokenizer.chat_template
    other = replace(target, tokenizer=crossing, vocab_size=120)
    chats = [conversation(i, texts[0]) for i in range(3)]
    found = count_responses(lambda: iter(chats), other, SETTINGS)
    assert (found.ranking.total() + found.held_out.total())[1] == 3


def test_plain_text_counts_whole(target):
    rows = [Conversation("t:1", "a", (), "Hello there"), Conversation("t:2", "b", (), "Hello")]
    plain = CountSettings(0, 0.3, plain_text=True)
    found = count_responses(lambda: iter(rows), target, plain)
    total = found.ranking.total() + found.held_out.total()
    assert total.sum() == 3 and total[target.tokenizer.encode("Hello")[0]] == 2


def test_preformatted_text_counts_its_assistant_spans(target):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
    text = target.tokenizer.apply_chat_template(turns, tokenize=False)
    found = count_responses(lambda: iter([Conversation("t:1", "a", (), text)]), target, SETTINGS)
    total = found.ranking.total() + found.held_out.total()
    assert total.sum() == len(target.tokenizer.encode("Hello there<|im_end|>"))


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WITH_SLASHES = LLAMA_3.replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}]+[\r\n/]*")  # as o200k has it
HARD_TEXT = st.lists(
    st.sampled_from([*"ab1é東😀 \t\r./'\u3000", "\n", "\n\n", ".\n/", ". b", " \n "]), max_size=20
).map("".join)


def tokenizer_that_splits(pattern):
    """Trained on text in which every such pair of characters is frequent."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    rng = random.Random(0)
    texts = ["".join(rng.choices("ab1é東 \n\t\r./'", k=400)) for _ in range(50)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")


TOKENIZERS = {"llama-3": LLAMA_3, "with slashes": WITH_SLASHES}


@pytest.fixture(scope="module", params=["embedded", *TOKENIZERS])
def byte_level(request, target):
    pattern = TOKENIZERS.get(request.param)
    return tokenizer_that_splits(pattern) if pattern else target.tokenizer


@settings(deadline=None, max_examples=80)
@given(texts=st.lists(st.one_of(st.text(max_size=40), HARD_TEXT), min_size=1, max_size=6))
def test_any_text_is_encoded_as_the_tokenizer_does(byte_level, texts):
    encoder = ResponseEncoder(byte_level, "<|im_end|>\n", 2, Cuts.SPACES_AND_LINES)
    (end,) = byte_level.encode("<|im_end|>", add_special_tokens=False)
    expected = [[*byte_level.encode(text, add_special_tokens=False), end] for text in texts]
    for _ in range(2):  # tokenized, and remembered
        found, sizes = encoder.encode([text + "<|im_end|>\n" for text in texts])
        assert found.tolist() == sum(expected, []) and sizes.tolist() == [*map(len, expected)]


def test_pieces_are_forgotten_when_there_are_too_many(target, monkeypatch):
    monkeypatch.setattr(encoding, "_MAX_PIECES", 30)
    encoder = ResponseEncoder(target.tokenizer, "<|im_end|>\n", 2, Cuts.SPACES_AND_LINES)
    for number in range(20):
        text = " ".join(f"word{i}" for i in range(number, number + 12))
        found, _ = encoder.encode([text])
        assert found.tolist() == target.tokenizer.encode(text, add_special_tokens=False)
        assert len(encoder._pieces) <= 30 + 13


def test_languages_that_rows_state_are_counted_apart(target):
    chats = hard_conversations(2500, seed=2)
    stated = [None, "English", "Danish"]
    # The first rows state none: nothing may be lost of them.
    chats = [replace(c, language=None if i < 600 else stated[i % 3]) for i, c in enumerate(chats)]
    found = count_responses(lambda: iter(chats), target, SETTINGS, num_processes=2)
    assert set(found.languages) == {"English", "Danish", "not stated"}
    for name, counts in found.languages.items():
        own = [c for c in chats if (c.language or "not stated") == name]
        for row, side in enumerate((Split.RANKING, Split.HELD_OUT)):
            assert (counts[row] == slow_counts(own, target, side)).all()


def test_a_column_of_names_makes_no_table_of_thousands(target):
    chats = [replace(conversation(i, "x"), language=f"name {i}") for i in range(200)]
    found = count_responses(lambda: iter(chats), target, SETTINGS)
    assert len(found.languages) == 65 and "other languages" in found.languages
    total = found.ranking.total() + found.held_out.total()
    assert (sum(found.languages.values()).sum(axis=0) == total).all()


def test_scripts_are_counted_the_same_in_one_process_and_in_several(target):
    chats = hard_conversations(2500, seed=3)
    one, two = (
        count_responses(lambda: iter(chats), target, SETTINGS, num_processes=n).in_context for n in (1, 2)
    )
    assert one == two and sum(one[1].values()) > 100
    assert {script for script, _ in one[1]} <= {"Han", "Common", "Latin"}


def test_answers_that_are_ids_already():
    counts = block_counts([("a", [1, 1, 3]), ("b", []), ("a", [3])], 5, 2)
    assert counts.total().tolist() == [0, 2, 0, 2, 0] and counts.num_blocks == 1
    assert counts.num_conversations == 2


def test_answers_of_the_target_have_scripts_and_the_languages_of_their_prompts(target, tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"q{i}", "language": "Danish" if i % 2 else None} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    domain = DomainSource("mine", Source.file, str(path), responses=Responses.target)
    ids = target.tokenizer.encode("ж鱻", add_special_tokens=False)

    def write(prompts, wanted, odd):
        return [(prompt, ids) for prompt in prompts]

    sides = count_domain(domain, target, VocabConfig(["full"]), write, 1, lambda done: None).sides
    for side, in_context in zip((sides.ranking, sides.held_out), sides.in_context, strict=True):
        number = side.num_conversations
        split = {
            name: counts.sum() for name, counts in target.scripts.split(side.total(), in_context).items()
        }
        assert split == {"Cyrillic": number, "Han": (len(ids) - 1) * number}
    assert sides.languages["Danish"].sum() == 30 * len(ids)
    assert sides.languages["not stated"].sum() == 30 * len(ids)
