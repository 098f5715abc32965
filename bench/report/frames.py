"""Records to tidy tables: everything a report shows is derived here, from records alone."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from bench.errors import OutputError
from bench.measure.stats import Estimate, Floats, median, paired_speedup
from bench.records import BaselineRecord, DecodeRecord, VocabRecord, read_records

SUMMARY_COLUMNS = [
    "pair", "domain", "device_name", "dtype", "vocab_size", "draft_length", "coverage_train",
    "coverage_heldout", "draft_step_ms", "lm_head_ms", "verify_ms", "acceptance_rate",
    "mean_acceptance_length", "tokens_per_s", "speedup_vs_autoregressive", "speedup_vs_full_vocab",
    "speedup_vs_full_vocab_ci_low", "speedup_vs_full_vocab_ci_high", "identical_output_frac",
    "num_prompts", "num_tokens",
]  # fmt: skip

# Parts of a round whose latency is tabulated, as they are named in the records.
PARTS = ("layer", "lm_head", "select", "extend", "verify")

Key = tuple[int, int]  # vocabulary size, draft length


@dataclass(frozen=True)
class Run:
    """A run read back.

    Attributes:
        folder: where it lies.
        environment: what `environment.json` says.
        config: what `config.yaml` says.
        vocabs: vocabularies by domain and size.
        decodes: by domain, then variant, then prompt id.
        baselines: comparisons with `transformers.generate`.
    """

    folder: Path
    environment: dict[str, Any]
    config: dict[str, Any]
    vocabs: dict[str, dict[int, VocabRecord]]
    decodes: dict[str, dict[Key, dict[str, DecodeRecord]]]
    baselines: list[BaselineRecord]

    @property
    def full_size(self) -> int:
        """K of the untrimmed draft."""
        return int(self.environment["full_vocab_size"])

    @property
    def num_resamples(self) -> int:
        """Bootstrap resamples behind every interval."""
        return int(self.config["measure"]["bootstrap_samples"])

    @property
    def seed(self) -> int:
        """Seed of the bootstrap."""
        return int(self.config["measure"]["seed"])


def read_run(folder: Path) -> Run:
    """Reads a run's folder.

    Raises:
        OutputError: it is not a run, or it holds no measurement.
    """
    try:
        environment = json.loads((folder / "environment.json").read_text("utf-8"))
        config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OutputError(f"{folder} is not a run: {error}") from error
    vocabs: dict[str, dict[int, VocabRecord]] = defaultdict(dict)
    decodes: dict[str, dict[Key, dict[str, DecodeRecord]]] = defaultdict(lambda: defaultdict(dict))
    baselines = []
    for record in read_records(folder):
        if isinstance(record, VocabRecord):
            vocabs[record.domain][record.vocab_size] = record
        elif isinstance(record, DecodeRecord):
            decodes[record.domain][record.vocab_size, record.draft_length][record.prompt_id] = record
        else:
            baselines.append(record)
    if not decodes:
        raise OutputError(f"{folder} holds no measurement yet")
    num_gammas = len(config["measure"]["draft_lengths"])
    comparable = {
        domain: kept
        for domain, variants in decodes.items()
        if len(variants) == 1 + len(vocabs[domain]) * num_gammas and (kept := _comparable(variants))
    }
    if not comparable:
        raise OutputError(
            f"{folder}: no prompt was decoded by every variant yet; there is nothing to compare"
        )
    return Run(folder, environment, config, dict(vocabs), comparable, baselines)


def _comparable(variants: dict[Key, dict[str, DecodeRecord]]) -> dict[Key, dict[str, DecodeRecord]]:
    """The prompts to compare on; empty where there is none.

    Those that every variant decoded, as an interrupted run ends in the middle of one, and whose answers
    go on after the first token, as decoding others takes no time.
    """
    shared = set.intersection(
        *({p for p, r in by_prompt.items() if len(r.token_ids) > 1} for by_prompt in variants.values())
    )
    if not shared:
        return {}
    return {key: {p: by_prompt[p] for p in by_prompt if p in shared} for key, by_prompt in variants.items()}


def decode_series(by_prompt: dict[str, DecodeRecord]) -> tuple[Floats, Floats]:
    """Tokens after the first, and their decode time in ms, per prompt in a fixed order `(n,)`."""
    records = [by_prompt[prompt] for prompt in sorted(by_prompt)]
    tokens = np.array([len(r.token_ids) - 1 for r in records], dtype=np.float64)
    return tokens, np.array([r.decode_ms for r in records])


def speedup(run: Run, domain: str, key: Key, base: Key) -> Estimate | None:
    """Throughput of one variant over another's on the same prompts; None where one is missing."""
    variants = run.decodes[domain]
    if key not in variants or base not in variants:
        return None
    series = (*decode_series(variants[key]), *decode_series(variants[base]))
    return paired_speedup(*series, run.num_resamples, run.seed)


def step_samples(record: DecodeRecord) -> dict[str, list[float]]:
    """Latency samples by part, plus `draft_step`: layer, head and selection of one chained step."""
    laps, gamma = record.laps_ms, record.draft_length
    samples = {part: laps.get(part, []) for part in PARTS}
    if gamma < 2:
        return {**samples, "draft_step": []}
    # The first token of a round is drafted from the extend step; chained steps are the others.
    rounds = len(laps["lm_head"]) // gamma
    head = np.reshape(laps["lm_head"], (rounds, gamma))[:, 1:]
    select = np.reshape(laps["select"], (rounds, gamma))[:, 1:]
    steps = np.reshape(laps["layer"], (rounds, gamma - 1)) + head + select
    return {**samples, "draft_step": steps.ravel().tolist()}


def latency_frame(run: Run) -> pd.DataFrame:
    """Median latency of every part with its interval: one row per domain, variant and part."""
    rows = []
    for domain, variants in run.decodes.items():
        for (vocab_size, draft_length), by_prompt in variants.items():
            pooled: dict[str, list[float]] = defaultdict(list)
            for record in by_prompt.values():
                for part, samples in step_samples(record).items():
                    pooled[part].extend(samples)
            for part, samples in pooled.items():
                if samples:
                    estimate = median(np.array(samples))
                    rows.append(
                        (
                            domain,
                            vocab_size,
                            draft_length,
                            part,
                            estimate.value,
                            estimate.ci_low,
                            estimate.ci_high,
                            len(samples),
                        )
                    )
    columns = [
        "domain",
        "vocab_size",
        "draft_length",
        "part",
        "median_ms",
        "ci_low_ms",
        "ci_high_ms",
        "num_samples",
    ]
    return pd.DataFrame(rows, columns=columns)


def summary_frame(run: Run, latency: pd.DataFrame) -> pd.DataFrame:
    """One row per domain, vocabulary size and draft length, with `SUMMARY_COLUMNS`."""
    medians = latency.set_index(["domain", "vocab_size", "draft_length", "part"])["median_ms"]
    rows = [
        _summary_row(run, domain, key, medians)
        for domain, variants in run.decodes.items()
        for key in sorted(variants, key=lambda k: (k[1], -k[0]))
    ]
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def _summary_row(run: Run, domain: str, key: Key, medians: pd.Series) -> dict[str, Any]:
    vocab_size, draft_length = key
    by_prompt = run.decodes[domain][key]
    tokens, times = decode_series(by_prompt)
    plain = run.decodes[domain].get((run.full_size, 0), {})
    is_draft = draft_length > 0
    accepted = [count for record in by_prompt.values() for count in record.accepted]
    against_plain = speedup(run, domain, key, (run.full_size, 0))
    against_full = speedup(run, domain, key, (run.full_size, draft_length)) if is_draft else None
    identical = [by_prompt[p].token_ids == plain[p].token_ids for p in by_prompt if p in plain]

    def part(name: str) -> float | None:
        return medians.get((domain, vocab_size, draft_length, name))

    return {
        "pair": run.environment["pair"],
        "domain": domain,
        "device_name": run.environment["device_name"],
        "dtype": run.environment["dtype"],
        "vocab_size": vocab_size,
        "draft_length": draft_length,
        "coverage_train": run.vocabs[domain][vocab_size].coverage_train if is_draft else None,
        "coverage_heldout": held_out_coverage(run, domain, vocab_size) if is_draft else None,
        "draft_step_ms": part("draft_step"),
        "lm_head_ms": part("lm_head"),
        "verify_ms": part("verify"),
        "acceptance_rate": sum(accepted) / (len(accepted) * draft_length) if accepted else None,
        "mean_acceptance_length": 1 + sum(accepted) / len(accepted) if accepted else 1.0,
        "tokens_per_s": tokens.sum() / times.sum() * 1e3 if times.sum() else None,
        "speedup_vs_autoregressive": against_plain.value if against_plain else None,
        "speedup_vs_full_vocab": against_full.value if against_full else None,
        "speedup_vs_full_vocab_ci_low": against_full.ci_low if against_full else None,
        "speedup_vs_full_vocab_ci_high": against_full.ci_high if against_full else None,
        "identical_output_frac": float(np.mean(identical)) if identical else None,
        "num_prompts": len(by_prompt),
        "num_tokens": int(tokens.sum()),
    }


def held_out_coverage(run: Run, domain: str, vocab_size: int) -> float | None:
    """Share of the plain held-out answers' tokens that a vocabulary holds."""
    plain = run.decodes[domain].get((run.full_size, 0))
    if not plain:
        return None
    said = np.concatenate([np.array(r.token_ids) for r in plain.values()])
    kept = run.vocabs[domain][vocab_size].target_ids
    return 1.0 if kept is None else float(np.isin(said, kept).mean())
