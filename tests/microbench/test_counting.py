"""Counting response tokens: this package's way against the reference implementation's, on the same file.

The file has the size that the product promises to handle; CONVERSATIONS=5000 makes a smaller one.
"""

import os
import time
from functools import partial

import numpy as np
import pytest

from bench.config import DomainSource, Source
from bench.models.fetching import resolve_tokenizer
from bench.text import load_conversations
from bench.text.counting import CountSettings, count_responses
from bench.text.tokenizer import load_tokenizer
from tests.microbench.counting import count_by_reference, write_corpus

# The slower loop has a part, which is enough for a rate.
NUM_BY_REFERENCE, NUM_OVER_TENSORS = 1000, 250

SETTINGS = CountSettings(0, 0.2, False)


@pytest.fixture(scope="module")
def num_conversations(pytestconfig):
    """The promised size where times are taken; elsewhere as many as the reference counts."""
    if not pytestconfig.getoption("benchmark_enable"):
        return NUM_BY_REFERENCE
    return int(os.environ.get("CONVERSATIONS", "50000"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, num_conversations):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "conversations.jsonl", num_conversations)


@pytest.fixture(scope="module")
def target():
    return load_tokenizer(resolve_tokenizer("smollm2-135m-instruct"))


def test_counting(benchmark, corpus, target, num_conversations):
    benchmark.group = "counting"
    domain = DomainSource("chat", Source.file, str(corpus))
    count = partial(count_responses, lambda: load_conversations(domain), target, SETTINGS)
    sides = benchmark.pedantic(count, rounds=6)
    assert sides.num_conversations == num_conversations


def test_counts_are_those_of_the_reference_and_there_sooner(corpus, target, num_conversations, capsys):
    per_s = {}
    for over_lists, num in ((True, NUM_BY_REFERENCE), (False, NUM_OVER_TENSORS)):
        begun = time.perf_counter()
        by_reference = count_by_reference(corpus, target.tokenizer, num, over_lists=over_lists)
        per_s[over_lists] = num / (time.perf_counter() - begun)
        # The same tokens, but for what the reference's expression takes of the markup at a turn's end.
        first = DomainSource("chat", Source.file, str(corpus), max_conversations=num)
        same = count_responses(lambda first=first: load_conversations(first), target, SETTINGS)
        own = same.ranking.total() + same.held_out.total()
        plain = np.setdiff1d(np.arange(len(own)), target.tokenizer.all_special_ids)
        assert np.abs(own[plain] - by_reference[plain]).sum() <= 2 * num
    if num_conversations > NUM_BY_REFERENCE:
        whole = DomainSource("chat", Source.file, str(corpus))
        begun = time.perf_counter()
        count_responses(lambda: load_conversations(whole), target, SETTINGS)
        own_per_s = num_conversations / (time.perf_counter() - begun)
        with capsys.disabled():
            print(
                f"\n{num_conversations:,} conversations: {own_per_s:,.0f} a second; the reference's loop "
                f"over lists {per_s[True]:,.0f} (ratio {own_per_s / per_s[True]:.1f}), over tensors "
                f"{per_s[False]:,.0f} (ratio {own_per_s / per_s[False]:.1f})"
            )
        assert own_per_s > 5 * per_s[True] and own_per_s > 20 * per_s[False]
