"""Runs a selection for every domain of a configuration."""

import itertools
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from bench.config import Config
from bench.export.files import refuse_foreign, replace_folder
from bench.progress import stage
from bench.select.choose import Selection, rank, select
from bench.select.exports import export_of, write_exports
from bench.select.groups import coverage_by_language, coverage_by_script
from bench.select.prepare import Context, prepare
from bench.text.counting import LeftOut, SideCounts
from bench.vocab.coverage import coverage_curve, cross_coverage, lost_tokens
from bench.vocab.search import pareto_frontier


def run_select(config: Config, console: Console) -> list[Path]:
    """Counts, chooses, exports and reports; prints one line per domain.

    Returns:
        One folder per domain.

    Raises:
        BenchError: wrong input; no incomplete folder is left.
    """
    # Each worker tokenizes in one thread, and a process with tokenizer threads must not be forked.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Check this before counting, which can take long.
    for source in config.domain.sources():
        refuse_foreign(folder_of(config, source.name).resolve(), SUMMARY)
    with stage(console, "starting") as status:
        context = prepare(config, status.update)
    for name, counts in context.counts.items():
        for line in counts.odd.lines(name):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    selections = _select_all(context, console)
    cross = _cross_domain(context, selections)
    # Imported late: the drawing libraries take seconds to load.
    from bench.analysis.selection import read_selection
    from bench.report.tasks import render_selection, show_selections

    folders = []
    for name, selection in selections.items():
        target = folder_of(config, name)
        with stage(console, f"writing {target}"), replace_folder(target, SUMMARY) as folder:
            figures = summary(context, name, selection)
            write_tables(folder, context, name, selection, cross, figures)
            write_exports(folder, export_of(context, name, selection, figures))
            render_selection(read_selection(folder, _other_curves(context, name, selection)))
        folders.append(target)
    show_selections([read_selection(folder) for folder in folders], console)
    return folders


def folder_of(config: Config, domain: str) -> Path:
    """The folder of the selection for `domain`: `out`, or one folder in `out` for each domain of a set."""
    if config.out_dir is None:
        return config.results_of("vocab") / f"{config.pair.label}-{domain}"
    return config.out_dir / domain if config.domain.members else config.out_dir


def _select_all(context: Context, console: Console) -> dict[str, Selection]:
    settings = context.config.select
    names = [source.name for source in context.config.domain.sources()]
    totals = {name: counts.sides.ranking.total() for name, counts in context.counts.items()}
    selections = {}
    done, total = itertools.count(1), len(names) * settings.trials
    with stage(console, "searching") as current:
        for name in names:

            def show(name: str = name) -> None:
                current.update(f"{name}: TPE trials", next(done), total)

            sides = context.counts[name].sides
            ranking = rank(totals, settings.ranking_weights() or {name: 1.0}, context.vocabulary)
            selections[name] = select(
                ranking,
                sides.ranking,
                sides.held_out,
                context.vocabulary,
                context.shape,
                settings,
                show,
            )
    return selections


def _cross_domain(context: Context, selections: dict[str, Selection]) -> pd.DataFrame:
    """Held-out coverage of every domain and corpus (columns) by every chosen vocabulary (rows)."""
    held_out = {name: context.counts[name].sides.held_out.total() for name in context.counts}
    shares = cross_coverage({name: s.chosen for name, s in selections.items()}, held_out)
    table = pd.DataFrame(index=list(selections), columns=list(held_out), dtype=float)
    for (row, column), share in shares.items():
        table.loc[row, column] = np.nan if share is None else share
    return table


def _other_curves(context: Context, name: str, selection: Selection) -> dict[str, np.ndarray]:
    """Held-out coverage of the other domains at every k by this domain's ranking."""
    others = {other: c.sides.held_out.total() for other, c in context.counts.items() if other != name}
    return {other: coverage_curve(c, selection.order) for other, c in others.items() if c.any()}


# Files of a selection: summary, curves and tables. `exports.py` writes the others.

SUMMARY, COUNTS, COVERAGE = "summary.json", "token_counts.npz", "coverage.parquet"

CROSS_DOMAIN, LOST, TRIALS, PARETO = "cross_domain.csv", "lost_tokens.csv", "tpe_trials.csv", "pareto.csv"

BY_SCRIPT, BY_LANGUAGE = "coverage_by_script.csv", "coverage_by_language.csv"

_MOST_LOST = 100


def write_tables(
    folder: Path, context: Context, name: str, selection: Selection, cross: pd.DataFrame, figures: dict
) -> None:
    """Writes counts, curves and tables of domain `name`, and its summary `figures`, into `folder`."""
    counts = context.counts[name].sides.ranking.total()
    seen = np.flatnonzero(counts)
    np.savez_compressed(folder / COUNTS, ids=seen, counts=counts[seen])
    _coverage(context, selection, counts).to_parquet(folder / COVERAGE, index=False)
    cross.to_csv(folder / CROSS_DOMAIN, index_label="vocabulary chosen on")
    _lost(context, name, selection).to_csv(folder / LOST, index=False)
    trials = pd.DataFrame([vars(trial) for trial in selection.tpe.trials])
    trials.to_csv(folder / TRIALS, index_label="trial")
    _pareto(context, selection).to_csv(folder / PARETO, index=False)
    pd.DataFrame(figures["coverage_by_script"]).to_csv(folder / BY_SCRIPT, index=False)
    if figures["coverage_by_language"]:
        pd.DataFrame(figures["coverage_by_language"]).to_csv(folder / BY_LANGUAGE, index=False)
    text = json.dumps(figures, indent=2)
    (folder / SUMMARY).write_text(text + "\n", "utf-8")


def summary(context: Context, name: str, selection: Selection) -> dict:
    """The numbers of a selection. An unknown one is None, with the reason in a note."""
    domain, config = context.counts[name], context.config
    ranked, held_out = domain.sides.ranking, domain.sides.held_out
    at = len(selection.chosen) - 1
    exact, best = selection.exact, selection.tpe.best
    band = selection.held_out
    flops = context.shape.token_flops(len(selection.chosen))
    return {
        "pair": config.pair.label,
        "domain": name,
        "vocab_size": exact.vocab_size,
        "exported_vocab_size": len(selection.chosen),
        "tpe_vocab_size": best.vocab_size if best else None,
        "tpe_regret": exact.utility - best.utility if best else None,
        "tpe_note": None if best else "no trial reached select.min_coverage; raise select.trials",
        "coverage_train": float(selection.train.value[at]),
        "coverage_train_ci_low": _at(selection.train.ci_low, at),
        "coverage_train_ci_high": _at(selection.train.ci_high, at),
        "coverage_heldout": None if band is None else float(band.value[at]),
        "coverage_heldout_ci_low": None if band is None else _at(band.ci_low, at),
        "coverage_heldout_ci_high": None if band is None else _at(band.ci_high, at),
        "coverage_heldout_note": _why_no_interval(selection),
        "draft_vocab_size": len(selection.order),
        "coverage_ceiling_train": float(selection.train.value[-1]),
        "coverage_ceiling_heldout": None if band is None else float(band.value[-1]),
        "latency_reduction": float(selection.reduction[at]),
        "flops_saved_of_draft": 1 - flops.total / context.shape.token_flops(len(selection.order)).total,
        "utility": float(selection.utility[at]),
        "flops": {"fc": flops.fc, "attention": flops.attention, "mlp": flops.mlp, "lm_head": flops.lm_head},
        "coverage_weight": config.select.coverage_weight,
        "min_coverage": config.select.min_coverage,
        "coverage_of": config.select.coverage_of.value,
        "k_min": selection.space.k_min,
        "k_max": selection.space.k_max,
        "multiple": selection.space.multiple,
        "ranking": config.select.ranking_weights() or {name: 1.0},
        "responses": domain.responses.value,
        "num_must_keep": len(context.vocabulary.must_keep),
        "keep_scripts": config.select.keep_scripts,
        "num_tokens": int(ranked.counts.sum()),
        "num_tokens_heldout": int(held_out.counts.sum()),
        "num_distinct_tokens": len(np.unique(ranked.token_ids)),
        "num_conversations": ranked.num_conversations,
        "num_conversations_heldout": held_out.num_conversations,
        "num_conversations_without_response": domain.sides.num_silent,
        "rows": domain.odd.as_dict(),
        "coverage_by_script": coverage_by_script(domain.sides, context.target.scripts, selection.chosen),
        "coverage_by_language": coverage_by_language(domain.sides, selection.chosen),
        **_left_out(domain.sides, None if band is None else float(band.value[at])),
        "target_vocab_size": context.target.vocab_size,
        "content_hash": selection.chosen.content_hash,
        "source_id": domain.source_id,
        "tokenizer_fingerprint": context.target.fingerprint,
        "split_seed": config.vocab.split_seed,
        "held_out_share": config.vocab.held_out_share,
    }


def _left_out(sides: SideCounts, coverage_heldout: float | None) -> dict:
    """Text that the chat template does not show, and the coverage of all text if none of it is covered."""
    lost = sum(sides.left_out.values(), LeftOut())
    shown, shown_heldout = int(sides.ranking.counts.sum()), int(sides.held_out.counts.sum())
    share_heldout = _share(shown_heldout, lost.num_tokens_heldout)
    by_number = sorted(sides.left_out.items(), key=lambda i: -i[1].num_tokens - i[1].num_tokens_heldout)
    return {
        "left_out": {name: asdict(of_field) for name, of_field in by_number},
        "num_tokens_left_out": lost.num_tokens,
        "num_tokens_left_out_heldout": lost.num_tokens_heldout,
        "share_shown": _share(shown, lost.num_tokens),
        "share_shown_heldout": share_heldout,
        # What is not shown counts as not covered.
        "coverage_heldout_of_all_written": None
        if coverage_heldout is None or share_heldout is None
        else coverage_heldout * share_heldout,
    }


def _share(shown: int, lost: int) -> float | None:
    return shown / (shown + lost) if shown + lost else None


def _coverage(context: Context, selection: Selection, counts: np.ndarray) -> pd.DataFrame:
    """Every k with the token that it adds. Sizes below the must-keep set cannot be chosen."""
    sizes, band = selection.sizes, selection.held_out
    return pd.DataFrame(
        {
            "vocab_size": sizes,
            "token_id": selection.order,
            "token_count": counts[selection.order],
            "coverage_train": selection.train.value,
            "coverage_train_ci_low": selection.train.ci_low,
            "coverage_train_ci_high": selection.train.ci_high,
            "coverage_heldout": None if band is None else band.value,
            "coverage_heldout_ci_low": None if band is None else band.ci_low,
            "coverage_heldout_ci_high": None if band is None else band.ci_high,
            "draft_flops": context.shape.total_flops(sizes),
            "latency_reduction": selection.reduction,
            "utility": selection.utility,
            "can_be_chosen": sizes >= len(context.vocabulary.must_keep),
        }
    )


def _lost(context: Context, name: str, selection: Selection) -> pd.DataFrame:
    """The most frequent tokens that are not in the chosen vocabulary, on both sides of the split."""
    sides, tokenizer = context.counts[name].sides, context.target.tokenizer
    ranked, held_out = sides.ranking.total(), sides.held_out.total()
    lost = lost_tokens(ranked + held_out, selection.order, len(selection.chosen), _MOST_LOST)
    # A draft whose head is trimmed already cannot rank what it lacks.
    ranks = {token: rank for rank, token in enumerate(selection.order.tolist(), start=1)}
    rows = [
        {
            "token_id": token,
            "token": _readable(tokenizer, token),
            "count": count,
            "count_ranking": int(ranked[token]),
            "count_heldout": int(held_out[token]),
            "rank": ranks.get(token),
        }
        for token, count in lost
    ]
    columns = ["token_id", "token", "count", "count_ranking", "count_heldout", "rank"]
    return pd.DataFrame(rows, columns=columns)


def _readable(tokenizer, token: int) -> str:
    """The token as text. A token that is only part of a character is written as in the tokenizer."""
    text = tokenizer.decode([token])
    return tokenizer.convert_ids_to_tokens(token) if "\ufffd" in text else text


def _pareto(context: Context, selection: Selection) -> pd.DataFrame:
    flops = context.shape.total_flops(selection.sizes)
    sizes = pareto_frontier(selection.judged, flops, selection.space)
    return pd.DataFrame(
        {
            "vocab_size": sizes,
            "coverage": selection.judged[sizes - 1],
            "draft_flops": flops[sizes - 1],
            "latency_reduction": selection.reduction[sizes - 1],
        }
    )


def _at(values: np.ndarray | None, index: int) -> float | None:
    return None if values is None else float(values[index])


def _why_no_interval(selection: Selection) -> str | None:
    if selection.held_out is None:
        return "there are no held-out responses"
    if selection.held_out.ci_low is None:
        return "one held-out conversation is too few for an interval"
    return None
