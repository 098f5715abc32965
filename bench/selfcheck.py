"""`task=selfcheck`, start to end: the embedded pair, the instruments held against themselves."""

import json
import os
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.config import Config
from bench.device import Device, open_device
from bench.device.lock import hold_device, physical_id
from bench.domains import load_prompts
from bench.environment import describe
from bench.errors import FailedCasesError, OutputError
from bench.measure.isolated import PartKey, isolated_parts
from bench.measure.rig import Rig
from bench.measure.selfcheck import (
    Check,
    decode_twice,
    different,
    fine_clock,
    laps_add_up,
    same,
    small_overhead,
    time_heads,
    with_and_without_laps,
)
from bench.measure.stats import CONFIDENCE
from bench.measure.timer import timer_facts
from bench.pair import Pair, load_pair
from bench.vocab.draft_vocab import DraftVocab
from bench.workloads import held_out_prompts

_NUM_PROMPTS, _NUM_TOKENS, _DRAFT_LENGTH, _NUM_REPEATS = 4, 32, 3, 4
_SMALL = 1024
# Of each part; a run that times many parts gives each less.
_LEAST_BUDGET_S = 2.0
# How much smaller the head is that must be told from the whole one.
_CUT = 0.8
# The parts that are compared with themselves: two heads, a layer, and a whole decode.
_NUM_SAME = 4


def run_selfcheck(config: Config, console: Console) -> Path:
    """Checks the instruments on one device and writes what was found.

    Returns:
        The file with all findings.

    Raises:
        FailedCasesError: a check did not pass.
        BenchError: anything the user can mend.
    """
    with hold_device(physical_id(config.gpu.device), console.out):
        device = open_device(config.gpu.device, config.gpu.name_pattern)
        with console.status("loading the models"):
            pair = load_pair(config.pair, device, config.dtype)
        with console.status("checking"):
            checks = _check(config, device, pair)
    path = _write(config, device, checks)
    _show(device, checks, console)
    console.print(f"written to {path}", soft_wrap=True, highlight=False)
    failed = [check.name for check in _last(checks) if not check.passed]
    if failed:
        raise FailedCasesError(f"{len(failed)} checks did not pass: {', '.join(failed)}")
    return path


def _check(config: Config, device: Device, pair: Pair) -> list[Check]:
    source = config.domain.sources()[0]
    measure = replace(config.measure, num_prompts=_NUM_PROMPTS)
    timing = replace(config.timing, budget_s=max(config.timing.budget_s, _LEAST_BUDGET_S))
    prompts = held_out_prompts(pair, source, load_prompts(source), config.vocab, measure)
    full_head, seed = pair.draft.head(pair.draft.vocab), measure.seed
    rig = Rig(device, pair.target, pair.draft.draft, full_head, _NUM_TOKENS, seed)
    ids = pair.draft.vocab.target_ids
    sizes = {"small": min(_SMALL, len(ids) // 2), "cut": int(_CUT * len(ids))}
    heads = {
        name: pair.draft.head(DraftVocab(ids[:size], pair.target.vocab_size)) for name, size in sizes.items()
    }
    prefill = rig.decoder.prefill(prompts[0].token_ids)
    by_size = {head.size: head for head in (full_head, *heads.values())}
    parts = isolated_parts(rig.target, rig.draft, by_size, [_DRAFT_LENGTH], prefill)
    calls = {name: parts[PartKey("lm_head", vocab_size=size)] for name, size in sizes.items()}
    calls |= {"full": parts[PartKey("lm_head", vocab_size=full_head.size)], "layer": parts[PartKey("layer")]}

    def compare_with_itself(attempt: int) -> tuple[list[Check], dict[str, Any]]:
        twice = {
            f"{name} {label}": calls[name] for name in ("small", "full", "layer") for label in ("A", "B")
        }
        times, num_calls = time_heads(device, {**twice, "cut": calls["cut"]}, timing, seed + attempt)
        decoded, records = decode_twice(
            rig, prompts, heads["small"], _DRAFT_LENGTH, _NUM_REPEATS, seed + attempt
        )
        names = {"small": f"LM head of {sizes['small']:,}", "full": "whole LM head", "layer": "draft layer"}
        found = [
            same(f"A/A {text}", (times[f"{name} A"], times[f"{name} B"]), _NUM_SAME, attempt)
            for name, text in names.items()
        ]
        found.append(same("A/A whole decode", decoded, _NUM_SAME, attempt))
        samples = {
            text: float(np.median(times[f"{name} A"])) * num_calls[f"{name} A"]
            for name, text in names.items()
        }
        return found, {"times": times, "samples": samples, "records": records}

    checks, seen = compare_with_itself(1)
    if not all(check.passed for check in checks):
        # One comparison in twenty fails by chance: what is wrong fails twice.
        again, seen = compare_with_itself(2)
        checks += again
    times = seen["times"]
    laps = with_and_without_laps(rig, prompts, heads["small"], _DRAFT_LENGTH, _NUM_REPEATS, seed)
    return [
        *checks,
        different(f"A/B whole LM head, and {_CUT:.0%} of it", (times["full A"], times["cut"]), 1 / _CUT),
        fine_clock(timer_facts(device), seen["samples"]),
        small_overhead(laps, device.asynchronous),
        laps_add_up(seen["records"]),
    ]


def _last(checks: list[Check]) -> list[Check]:
    """A check that was repeated counts as failed only where it failed both times."""
    passed = {check.name for check in checks if check.passed}
    latest = {check.name: check for check in checks}
    return [replace(check, passed=check.passed or check.name in passed) for check in latest.values()]


def _write(config: Config, device: Device, checks: list[Check]) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = Path(config.results_dir) / "selfcheck" / f"{stamp}-{os.getpid()}.json"
    content = {"environment": describe(device), "checks": [asdict(check) for check in checks]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".partial")
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; set results_dir") from error
    return path


def _show(device: Device, checks: list[Check], console: Console) -> None:
    table = Table(title=f"instruments on {device.name}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("check", "", "found"):
        table.add_column(heading)
    held = {check.name for check in _last(checks) if check.passed}
    for check in checks:
        # What differed once and not when it was repeated, longer, was one of the false alarms to be expected.
        failed = "[yellow]again[/yellow]" if check.name in held else "[red]FAIL[/red]"
        verdict = "[green]pass[/green]" if check.passed else failed
        verdict = "[yellow]note[/yellow]" if check.passed and check.note else verdict
        name = check.name if check.attempt == 1 else f"{check.name}, repeated"
        remedy = "repeated below, longer" if check.name in held else f"To do: {check.remedy}"
        found = check.finding if check.passed else f"{check.finding}. {remedy}"
        found += f". Note: {check.note}" if check.passed and check.note else ""
        table.add_row(escape(name), verdict, escape(found))
    console.print(table)
    if len(held) == len(_last(checks)):
        console.print(
            f"[bold green]The instruments hold[/bold green]: all {len(held)} checks passed. The same work "
            f"under two names takes the same time ({CONFIDENCE:.0%} confidence over all comparisons), and "
            "other work does not.",
            highlight=False,
        )
