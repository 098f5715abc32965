"""The results for a pair on published GPUs, as sentences and small tables."""

import pandas as pd

from bench.analysis.end_to_end import truth_summary
from bench.analysis.gpus import KERNELS, WITH_HOST, GpusFindings
from bench.analysis.published import GOAL, WORST, what_is_missing

_SHOWN_LOSSES, _SHOWN_REASONS = 3, 3


def usual(found: GpusFindings) -> pd.DataFrame:
    """Choices at the first batch and context with the usual engine of each GPU, and what the host changes."""
    rows = found.choices
    rows = rows[
        (rows["batch"] == found.question.batches[0]) & (rows["context"] == found.question.contexts[0])
    ]
    rows = rows[rows["engine"] == rows["gpu"].map(_usual_engines(rows))]
    kernels = rows[rows["host"] == KERNELS]
    key = ["gpu", "engine", "version", "dtype", "batch", "context"]
    names = {
        name: f"host_{name}"
        for name in (
            "vocab_size", "draft_length", "speedup_vs_plain", "speedup_vs_full_vocab",
            "speedup_vs_full_vocab_ci_low", "speedup_vs_full_vocab_ci_high",
        )
    }  # fmt: skip
    host = rows[rows["host"] == WITH_HOST][[*key, *names]].rename(columns=names)
    return kernels.merge(host, on=key, how="left").sort_values(["dtype", "gpu"], ignore_index=True)


def headline(found: GpusFindings) -> list[str]:
    """What to use, in a sentence per dtype, and whether FLOPs would have done."""
    rows, sentences = usual(found), []
    for dtype in found.question.dtypes:
        chosen = rows[rows["dtype"] == dtype]
        if chosen.empty:
            continue
        sentences.append(f"{dtype}: {_sizes(chosen)} {_gains(chosen)}{_with_host(chosen)}")
    if not sentences:
        reasons = list(dict.fromkeys(found.refused["reason"]))[:_SHOWN_REASONS]
        sentences.append(f"Nothing could be composed from these tables: {'; '.join(reasons)}.")
        return sentences
    return [*sentences, flops_sentence(found)]


def _sizes(rows: pd.DataFrame) -> str:
    low, high = rows["vocab_size"].min(), rows["vocab_size"].max()
    gammas = sorted(rows["draft_length"].unique())
    length = f"{gammas[0]}" if len(gammas) == 1 else f"{gammas[0]} to {gammas[-1]}"
    size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    where = rows["gpu"].iloc[0] if len(rows) == 1 else f"{len(rows)} GPUs"
    return f"the fastest k is {size} on {where}, with gamma = {length}."


def _gains(rows: pd.DataFrame) -> str:
    gain = "speedup_vs_full_vocab"
    best, least = rows.nlargest(1, gain).iloc[0], rows.nsmallest(1, gain).iloc[0]
    losing = rows[~rows["trimming_pays"]]["gpu"].tolist()
    ends = f"{least[gain]:.2f}x ({least['gpu']})"
    if len(rows) > 1:
        ends += f" to {best[gain]:.2f}x ({best['gpu']})"
    text = f"It gains {ends} over the whole head."
    return text + (f" On {', '.join(losing)} the gain is not certain." if losing else "")


def _with_host(rows: pd.DataFrame) -> str:
    host = "host_speedup_vs_full_vocab"
    if host not in rows or rows[host].isna().all():
        return ""
    ends = f"{rows[host].min():.2f}x"
    if len(rows) > 1:
        ends += f" to {rows[host].max():.2f}x"
    return f" With the host's work of published rounds it is {ends}."


def flops_sentence(found: GpusFindings) -> str:
    """How much the k of FLOPs loses anywhere."""
    rows = found.choices
    if rows.empty:
        return ""
    worst = rows.nlargest(1, "flops_loss").iloc[0]
    share = float((rows["flops_loss"] > 0.01).mean())
    where = f"{worst['gpu']}, {worst['engine']}, {worst['dtype']}, batch {worst['batch']}"
    loss = (
        f"FLOPs lose at most {worst['flops_loss']:.1%} of the speed over {len(rows):,} settings ({where}, "
        f"{worst['context']:,} positions: k = {worst['flops_vocab_size']:,}, not {worst['vocab_size']:,})"
    )
    return f"{loss}; more than 1% in {share:.0%} of them."


def flops_losses(found: GpusFindings) -> pd.DataFrame:
    """The settings in which FLOPs lose most, one per GPU."""
    rows = found.choices.sort_values("flops_loss", ascending=False, kind="stable")
    return rows.drop_duplicates("gpu").head(_SHOWN_LOSSES)


def batch_table(found: GpusFindings) -> pd.DataFrame:
    """Smallest batch from which on trimming does not pay, by GPU, dtype and context; kernels alone.

    Over all engines of a GPU: the smallest of any.
    """
    rows = found.choices[found.choices["host"] == KERNELS]
    lines = []
    for (gpu, dtype), of_gpu in rows.groupby(["gpu", "dtype"], sort=True):
        line: dict[str, object] = {"gpu": gpu, "dtype": dtype}
        for context in found.question.contexts:
            of_context = of_gpu[of_gpu["context"] == context]
            line[f"{context:,} positions"] = _stops(of_context)
        lines.append(line)
    return pd.DataFrame(lines)


def batch_sentence(found: GpusFindings) -> str:
    """In how many settings trimming pays, and the smallest batch in which it does not."""
    counts = []
    for host, rows in found.choices.groupby("host", sort=False):
        losing = rows[~rows["trimming_pays"]]
        text = f"{host}, {len(rows) - len(losing):,} of {len(rows):,}"
        if len(losing):
            first = losing.nsmallest(1, "batch").iloc[0]
            text += f" (not from batch {first['batch']} on {first['gpu']}, {first['dtype']})"
        counts.append(text)
    most = found.choices["batch"].max()
    return (
        f"Settings up to batch {most} in which trimming gains 1% for certain: {'; '.join(counts)}."
        if counts
        else ""
    )


def usual_schedules(found: GpusFindings) -> pd.DataFrame:
    """Draft lengths by batch at the first context, with the usual engine of each GPU."""
    rows = found.schedules
    is_usual = rows["engine"] == rows["gpu"].map(_usual_engines(rows))
    return rows[is_usual & (rows["context"] == found.question.contexts[0])]


def usual_savings(found: GpusFindings) -> pd.DataFrame:
    """What the smallest head of the savings saves, with the usual engine of each GPU."""
    rows = found.savings
    is_usual = rows["engine"] == rows["gpu"].map(_usual_engines(rows))
    return rows[is_usual & (rows["rows"] == rows["rows"].min())]


def _stops(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "does not fit"
    found = []
    for _, of_engine in rows.groupby("engine"):
        by_batch = of_engine.sort_values("batch", ascending=False)
        stops = None
        for pays, batch in zip(by_batch["trimming_pays"], by_batch["batch"], strict=True):
            if pays:
                break
            stops = int(batch)
        found.append(stops)
    known = [stop for stop in found if stop is not None]
    return f"from {min(known)}" if known else f"pays up to {rows['batch'].max()}"


def error_summary(found: GpusFindings) -> pd.DataFrame:
    """Errors of the tables, those of bfloat16 first."""
    order = {dtype: place for place, dtype in enumerate(found.question.dtypes)}
    rows = found.errors.assign(order=found.errors["dtype"].map(order).fillna(len(order)))
    return rows.sort_values(["order", "gpu", "engine"], ignore_index=True).drop(columns="order")


def missing(found: GpusFindings) -> list[str]:
    """What t0 + B/W lacks on every GPU, and whether the surface does what is asked of it."""
    return [_goal(found), *what_is_missing(found.models, found.errors)]


def _goal(found: GpusFindings) -> str:
    rows = found.errors[found.errors["dtype"] == "bfloat16"]
    rows = rows[rows["engine"] == rows["gpu"].map(_usual_engines(rows))]
    if rows.empty:
        return "No table in bfloat16 has enough rows to be judged."
    results = []
    for name, column in (("a row", "row_error"), ("a whole size", "size_error")):
        middle, worst = rows[column].median(), rows[column].max()
        met = "meets it" if middle <= GOAL and worst <= WORST else "misses it"
        where = rows.nlargest(1, column)["gpu"].iloc[0]
        results.append(f"with {name} left out {middle:.1%} and {worst:.1%} ({where}), which {met}")
    apart = found.repeats["difference"].astype(float)
    if len(apart):
        results.append(
            f"tables of two engines, which call the same library, differ by {apart.median():.1%} in the "
            f"median and {apart.max():.1%} at most in the same rows"
        )
    asked = f"{GOAL:.0%} in the median over the GPUs and {WORST:.0%} at worst"
    return f"Goal of {asked} in bfloat16: {'; '.join(results)}."


def _usual_engines(rows: pd.DataFrame) -> dict[str, str]:
    """VLLM where it has tables of a GPU, else the first engine."""
    return {
        str(gpu): "vllm" if (of_gpu["engine"] == "vllm").any() else str(of_gpu["engine"].iloc[0])
        for gpu, of_gpu in rows.groupby("gpu")
    }


def doubts(found: GpusFindings) -> list[str]:
    """What makes the figures doubtful, in sentences."""
    sentences = [
        "All latencies are others' measurements; whether their caches were warm is not recorded. Rows that "
        "run above the memory's rate are left out as warm, slower ones may be warm in part."
    ]
    heads = found.errors[found.errors["dtype"] == "bfloat16"]
    beyond = heads["beyond_error"].astype(float)
    if len(beyond):
        sentences.append(
            f"Heads of more than 65,536 rows are extrapolated: predicting the largest tabulated heads from "
            f"those a third as large is off by {beyond.median():.1%} in the median over the tables, "
            f"{beyond.max():.1%} at worst."
        )
    warm = found.errors[found.errors["warm_share"].astype(float) > 0.02]
    if len(warm):
        places = sorted({f"{row.gpu} with {row.engine}" for row in warm.itertuples()})
        sentences.append(
            f"Rows faster than memory: {', '.join(places)}; {len(found.flags):,} doubtful rows are listed."
        )
    if len(found.question.lengths.sizes) == 1:
        sentences.append("The acceptance is known at one size only, so that no size can be chosen.")
    if not found.question.lengths.has_interval:
        sentences.append("The acceptance has no interval: those of the speeds carry table errors alone.")
    summary = truth_summary(found.truth)
    if len(summary):
        decode = summary.loc[summary["num_decode_rows"] > 0, "decode_median_absolute_error"].astype(float)
        sentences.append(
            f"Composed whole models are off by {decode.min():.1%} to {decode.max():.1%} where measured times "
            "are published (median by model, GPU and engine, of rows that are mostly decoding); host work "
            "in between is left out."
        )
    if found.refused["batch"].isna().any():
        reasons = sorted(set(found.refused.loc[found.refused["batch"].isna(), "reason"]))
        sentences.append(f"Left out: {'; '.join(reasons)}.")
    return sentences
