"""Held-out prompts must never be trained on; on the real data."""

import json

from bench.config import DomainSource, Source
from bench.decoding.answers import prompt_key, read_answers
from bench.models.checkpoint import SHIPPED
from bench.text import Split, load_prompts, take_split
from bench.training.plan import HELD_OUT_SHARE, SPLIT_SEED, jobs

DOMAINS = [
    DomainSource("code", Source.human_eval),
    DomainSource("function_calling", Source.bfcl),
    DomainSource("writing", Source.writing_bench),
]
DRAFT = SHIPPED / "smollm2-135m-eagle3"


def split(domain, side):
    return take_split(load_prompts(domain), side, SPLIT_SEED, HELD_OUT_SHARE)


def test_no_job_asks_a_held_out_prompt():
    held_out = {p.messages for domain in DOMAINS for p in split(domain, Split.HELD_OUT)}
    asked = [p.messages for job in jobs() for p in job.prompts]
    assert len(held_out) > 300 and len(asked) > 1000
    assert not held_out & set(asked)


def test_no_schema_prompt_quotes_a_function_call_question_that_is_held_out():
    ranking = {line for p in split(DOMAINS[1], Split.RANKING) for line in p.messages[-1].content.splitlines()}
    for job in jobs():
        if job.source == "code_from_schemas":
            for prompt in job.prompts:
                name = prompt.prompt_id.removeprefix("schema/")
                assert any(f'"name": "{name}"' in line.replace(".", "_") for line in ranking)


def test_shipped_answers_are_to_ranking_prompts_only():
    fingerprint = json.loads((DRAFT / "manifest.json").read_text())["target_fingerprint"]
    shipped = set(read_answers(DRAFT / "answers.npz"))
    for domain in DOMAINS:
        ranking = {prompt_key(fingerprint, p) for p in split(domain, Split.RANKING)}
        held_out = {prompt_key(fingerprint, p) for p in split(domain, Split.HELD_OUT)}
        assert len(ranking & shipped) >= 64, domain.name
        assert not held_out & shipped, domain.name


def test_jobs_are_the_same_every_time():
    assert [job.name for job in jobs()] == [job.name for job in jobs()]
    assert len({job.name for job in jobs()}) == len(list(jobs()))
