"""Latency of the parts of a round, in situ and on their own."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.analysis.run import COLD, EAGER, GRAPH, IN_SITU, WARM, Run, counted_cache
from bench.records import IsolatedRecord
from bench.stats.bootstrap import grouped_median
from bench.stats.estimates import Estimate, change_between_halves, median
from bench.variant import DRAFT, DRAFT_STEP, HEAD, LAYER, SELECT

_RESAMPLES = 400

_KEY = ["domain", "setting", "part", "execution", "vocab_size", "draft_length"]

LATENCY_COLUMNS = [*_KEY, "median_ms", "ci_low_ms", "ci_high_ms", "num_samples", "median_wall_ms"]

_BY_SIZE = ("layer", "lm_head", "select", "draft_step", "draft")

_BY_LENGTH = ("verify", "extend", "other", "draft")


def latency_frame(run: Run) -> pd.DataFrame:
    """Median latency of every part: inside real rounds, and on its own, cold and warm.

    Its 95% interval is over whole prompts inside rounds, as laps of one prompt are not independent, and over
    samples for parts on their own.

    LM head, selection, layer and a whole chained draft step depend on the vocabulary size (the layer by what
    the head left in the cache), verification, extension and the rest on the draft length; the other of the
    two columns is empty. Parts on their own belong to no domain; what takes in n tokens has draft length
    n - 1. Rounds were executed as the run says; parts on their own that were not eager say so in their
    setting (`isolated_cold_graph`), so that no setting holds two times of one part. Their wall time is from
    an idle device to an idle device.
    """
    rows = [_isolated_row(record) for record in run.isolated]
    for domain, probes in run.probes.items():
        pooled: dict[tuple[str, int | None, int | None], list[tuple[int, list[float]]]] = defaultdict(list)
        prompts = sorted({probe.prompt_id for probe in probes})
        for probe in probes:
            prompt = prompts.index(probe.prompt_id)
            for part, samples in step_samples(probe.laps_ms, probe.draft_length).items():
                size = probe.vocab_size if part in _BY_SIZE else None
                if samples:
                    gamma = probe.draft_length if part in _BY_LENGTH else None
                    pooled[part, size, gamma].append((prompt, samples))
        for (part, size, gamma), blocks in pooled.items():
            estimate, count = _over_prompts(blocks, run.seed)
            values = (*vars(estimate).values(), count, None)
            rows.append((domain, IN_SITU, part, run.execution, size, gamma, *values))
    frame = pd.DataFrame(rows, columns=LATENCY_COLUMNS)
    frame = frame.astype({"vocab_size": "Int64", "draft_length": "Int64", "median_wall_ms": "float64"})
    return frame.sort_values(_KEY, ignore_index=True)


def _over_prompts(blocks: list[tuple[int, list[float]]], seed: int) -> tuple[Estimate, int]:
    """Median of the samples of all prompts, with its interval over whole prompts, and their number."""
    samples = np.concatenate([times for _, times in blocks])
    groups = np.concatenate([np.full(len(times), prompt) for prompt, times in blocks])
    if (samples <= 0).any():
        return median(samples), len(samples)  # a clock that is too coarse for a part
    return grouped_median(samples, groups, _RESAMPLES, seed), len(samples)


def _isolated_row(record: IsolatedRecord) -> tuple[object, ...]:
    setting = f"isolated_{record.cache}"
    if record.execution != EAGER:
        setting += f"_{record.execution}"
    length = None if record.num_tokens is None else record.num_tokens - 1
    key = (None, setting, record.part, record.execution, record.vocab_size, length)
    estimate = median(np.array(record.device_ms))
    return (*key, *vars(estimate).values(), len(record.device_ms), float(np.median(record.wall_ms)))


def step_samples(laps_ms: dict[str, list[float]], draft_length: int) -> dict[str, list[float]]:
    """Latency samples by part, plus `draft_step`: layer, head and selection of one chained step."""
    if draft_length < 2 or "lm_head" not in laps_ms:  # a chain that is one graph has no laps inside
        return {**laps_ms, "draft_step": []}
    # The first token of a round is drafted from the extend step; chained steps are the others.
    rounds = len(laps_ms["lm_head"]) // draft_length
    head = np.reshape(laps_ms["lm_head"], (rounds, draft_length))[:, 1:]
    select = np.reshape(laps_ms["select"], (rounds, draft_length))[:, 1:]
    steps = np.reshape(laps_ms["layer"], (rounds, draft_length - 1)) + head + select
    return {**laps_ms, "draft_step": steps.ravel().tolist()}


def graph_samples(run: Run) -> dict[str, dict[int, list[float]]]:
    """Samples in ms by k of LM head and draft step as graphs on their own, with the cache that counts.

    Rounds that are graphs have no marks inside, so these stand in for their parts. A sample of a step is the
    sum of one of each of its parts. What was not timed as a graph is left out.
    """
    wanted = (counted_cache(run.isolated), GRAPH)
    records = [record for record in run.isolated if (record.cache, record.execution) == wanted]
    by_part = {(record.part, record.vocab_size): record.device_ms for record in records}
    layer = by_part.get((LAYER, None), [])
    heads = dict(sorted((size, times) for (part, size), times in by_part.items() if part == HEAD and size))
    steps = {
        size: [sum(times) for times in zip(layer, head, by_part.get((SELECT, size), []), strict=False)]
        for size, head in heads.items()
    }
    return {HEAD: heads, DRAFT_STEP: {size: times for size, times in steps.items() if times}}


@dataclass(frozen=True)
class Drift:
    """How the machine changed while it was measured.

    Attributes:
        change: of the time of plain decoding, from its first half to its second; above 0 it became slower.
        domain: where it changed most; empty where no domain has enough prompts.
    """

    change: float
    domain: str

    def phrase(self, form: str) -> str:
        """In words, with the size of the change in this format."""
        direction = "slower" if self.change > 0 else "faster"
        return f"plain decoding of {self.domain} became {abs(self.change):{form}} {direction} during the run"


_LEAST_DECODES = 4  # of one domain, for a drift


def drift_of(run: Run) -> Drift:
    """Plain decoding does the same work whenever it comes: of the domain that changed most.

    Domains have prompts of other lengths, so that only answers of one domain are compared.
    """
    found = [drift for domain in run.decodes if (drift := drift_in(run, domain))]
    return max(found, key=lambda drift: abs(drift.change), default=Drift(0.0, ""))


def drift_in(run: Run, domain: str) -> Drift | None:
    """Of one domain; None where it has too few plain decodes."""
    plain = [r for r in run.decodes_of(domain, run.plain) if r.laps_ms.get("verify")]
    plain = sorted(plain, key=lambda record: (record.process, record.order))
    steps = [float(np.median(r.laps_ms["verify"])) for r in plain]
    change = change_between_halves(steps) if len(steps) >= _LEAST_DECODES else None
    return None if change is None else Drift(change, domain)


def step_parts(latency: pd.DataFrame) -> pd.DataFrame:
    """Median of layer, LM head and selection inside rounds by domain and size, a column each.

    A size that was probed with a draft length of 1 alone has no layer, and takes that of its neighbour.
    Rounds that are graphs have no laps of these: parts that are graphs on their own stand in, and the column
    `inside` is a whole chained step inside rounds, from what rounds of several draft lengths take.
    """
    inside = latency[latency["setting"] == IN_SITU]
    laps = inside[inside["part"].isin([LAYER, HEAD, SELECT]) & inside["vocab_size"].notna()]
    if laps.empty:
        return _graph_parts(latency, inside[inside["part"] == DRAFT])
    table = laps.pivot(index=["domain", "vocab_size"], columns="part", values="median_ms")
    return table.groupby("domain").transform(lambda column: column.ffill().bfill()).reset_index()


def _graph_parts(latency: pd.DataFrame, chains: pd.DataFrame) -> pd.DataFrame:
    alone = [latency[latency["setting"] == f"{cache}_{GRAPH}"] for cache in (COLD, WARM)]
    parts = next((rows for rows in alone if len(rows)), alone[0])
    layer = parts.loc[parts["part"] == LAYER, "median_ms"]
    by_size = parts[parts["part"].isin([HEAD, SELECT])]
    table = by_size.pivot(index="vocab_size", columns="part", values="median_ms").reset_index()
    table = table.assign(layer=layer.iloc[0] if len(layer) else np.nan)
    steps = [
        (domain, size, np.polyfit(rows["draft_length"].astype(int), rows["median_ms"], 1)[0])
        for (domain, size), rows in chains.groupby(["domain", "vocab_size"])
        if len(rows) > 1
    ]
    inside = pd.DataFrame(steps, columns=["domain", "vocab_size", "inside"]).astype({"vocab_size": "Int64"})
    domains = pd.DataFrame({"domain": chains["domain"].unique()})
    return table.merge(domains, how="cross").merge(inside, on=["domain", "vocab_size"], how="outer")


def parts_by_setting(latency: pd.DataFrame) -> pd.DataFrame:
    """LM head by vocabulary size and verification by draft length, inside rounds and on their own.

    Of rounds the median over domains, as what a part costs does not depend on the text. Columns: part,
    setting, size, median_ms, ci_low_ms, ci_high_ms.
    """
    frames = []
    for part, size in (("lm_head", "vocab_size"), ("verify", "draft_length")):
        rows = latency[(latency["part"] == part) & latency[size].notna()].rename(columns={size: "size"})
        values = rows.groupby(["part", "setting", "size"])[["median_ms", "ci_low_ms", "ci_high_ms"]]
        frames.append(values.median().reset_index())
    return pd.concat(frames, ignore_index=True)
