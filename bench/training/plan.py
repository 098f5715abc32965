"""The prompts that the target answers for training: ranking prompts only, in seeded batches."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from bench.config import DomainSource, Source
from bench.text import load_prompts
from bench.text.conversation import Prompt, Split, take_split, unit_hash, user_prompt

# Domains whose answers also rank a vocabulary; other sources are only for training.
DOMAINS = {
    "code": DomainSource("code", Source.human_eval),
    "function_calling": DomainSource("function_calling", Source.bfcl),
    # The smallest limit with 64 held-out prompts, as in conf/domain/writing.yaml.
    "writing": DomainSource("writing", Source.writing_bench, max_replayed_prompt_tokens=946),
}

SPLIT_SEED = 0

HELD_OUT_SHARE = 0.2

SAMPLED = 0.8  # temperature of the answers that are not greedy


@dataclass(frozen=True)
class Job:
    """One batch of prompts for the target.

    Attributes:
        name: unique and stable; the name of the shard.
        source: the domain, or `code_from_schemas` for prompts that are only for training.
        prompts: the prompts; long ones are cut when they are encoded.
        temperatures: one answer per prompt and temperature.
    """

    name: str
    source: str
    prompts: tuple[Prompt, ...]
    temperatures: tuple[float, ...]


# (source, first prompt, number of prompts, temperature of each answer to a prompt)
_QUOTAS: tuple[tuple[str, int, int, tuple[float, ...]], ...] = (
    ("code", 0, 137, (0.0, SAMPLED, SAMPLED)),
    ("function_calling", 0, 600, (0.0,)),
    ("function_calling", 600, 448, (0.0,)),
    ("writing", 0, 320, (0.0, SAMPLED)),
    ("writing", 320, 139, (0.0, SAMPLED)),
    ("code_from_schemas", 0, 384, (0.0,)),
)

_ROWS = 64


def ranking_prompts(source: str) -> list[Prompt]:
    """The ranking split of a source, in seeded order; held-out prompts are not in it."""
    if source not in DOMAINS:
        return _code_from_schemas(ranking_prompts("function_calling"))
    prompts = load_prompts(DOMAINS[source])
    return take_split(prompts, Split.RANKING, SPLIT_SEED, HELD_OUT_SHARE)


def jobs() -> Iterator[Job]:
    """All batches, mixed over sources, so that the set is balanced if collecting stops early."""
    found: list[Job] = []
    for source, first, most, temperatures in _QUOTAS:
        # Prompts of similar length need the least padding.
        pool = ranking_prompts(source)[first : first + most]
        prompts = sorted(pool, key=lambda p: len(p.messages[-1].content))
        size = _ROWS // len(temperatures)
        for start in range(0, len(prompts), size):
            batch = tuple(prompts[start : start + size])
            found.append(Job(f"{source}-{first + start:05d}", source, batch, temperatures))
    return iter(sorted(found, key=lambda job: unit_hash("job", job.name)))


def _code_from_schemas(prompts: list[Prompt]) -> list[Prompt]:
    """Coding prompts from the function schemas in ranking prompts, because HumanEval is small."""
    schemas: dict[str, dict] = {}
    for prompt in prompts:
        for line in prompt.messages[-1].content.splitlines():
            if line.startswith('{"name"'):
                schema = json.loads(line)
                schemas.setdefault(schema["name"], schema)
    order = sorted(schemas.values(), key=lambda s: unit_hash("schema", s["name"]))
    return [_ask_for_code(schema) for schema in order]


def _ask_for_code(schema: dict) -> Prompt:
    name = schema["name"].replace(".", "_")
    arguments = ", ".join(schema["parameters"].get("properties", {}))
    signature = f'def {name}({arguments}):\n    """{schema["description"]}"""'
    return user_prompt(f"schema/{name}", f"Complete this Python function.\n\n```python\n{signature}\n```")
