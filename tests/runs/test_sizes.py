"""The sizes of a configuration that a draft can have; the others are left out with a line."""

from bench.config import VocabConfig
from bench.runs.workloads import possible_sizes


def test_the_default_list_works_for_any_draft():
    said = []
    sizes = ["full", "32768", "24576", "8192", "512", "256"]
    assert possible_sizes(VocabConfig(sizes), 300, 32000, said.append) == [512, 8192, 24576, 32000]
    assert said == [
        "vocab.sizes: left out 32,768, more than the 32,000 tokens of the draft",
        "vocab.sizes: left out 256, fewer than the 300 tokens that every draft must keep",
    ]
    said.clear()
    assert possible_sizes(VocabConfig(sizes), 17, 49152, said.append)[-1] == 49152 and not said
    assert possible_sizes(VocabConfig(["4096"]), 17, 97, said.append) == [97]
