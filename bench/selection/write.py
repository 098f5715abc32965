"""What a selection leaves in its folder: summary, curves and tables; `exports.py` writes the rest."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from bench.cost.flops import draft_flops, total_flops
from bench.selection.choose import Selection
from bench.selection.prepare import Context
from bench.vocab.coverage import lost_tokens
from bench.vocab.search import pareto_frontier

SUMMARY, COUNTS, COVERAGE = "summary.json", "token_counts.npz", "coverage.parquet"
CROSS_DOMAIN, LOST, TRIALS, PARETO = "cross_domain.csv", "lost_tokens.csv", "tpe_trials.csv", "pareto.csv"

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
    text = json.dumps(figures, indent=2)
    (folder / SUMMARY).write_text(text + "\n", "utf-8")


def summary(context: Context, name: str, selection: Selection) -> dict:
    """The selection in figures; None where there is nothing to tell, with the reason beside it."""
    domain, config = context.counts[name], context.config
    ranked, held_out = domain.sides.ranking, domain.sides.held_out
    at = len(selection.chosen) - 1
    exact, best = selection.exact, selection.tpe.best
    band = selection.held_out
    flops = draft_flops(context.shape, len(selection.chosen))
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
        "latency_reduction": float(selection.reduction[at]),
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
        "num_tokens": int(ranked.counts.sum()),
        "num_tokens_heldout": int(held_out.counts.sum()),
        "num_distinct_tokens": len(np.unique(ranked.token_ids)),
        "num_conversations": ranked.num_conversations,
        "num_conversations_heldout": held_out.num_conversations,
        "target_vocab_size": context.target.vocab_size,
        "content_hash": selection.chosen.content_hash,
        "source_id": domain.source_id,
        "tokenizer_fingerprint": context.target.fingerprint,
        "split_seed": config.vocab.split_seed,
        "held_out_share": config.vocab.held_out_share,
    }


def _coverage(context: Context, selection: Selection, counts: np.ndarray) -> pd.DataFrame:
    """Every k, with the token that it adds; sizes below the must-keep set cannot be chosen."""
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
            "draft_flops": total_flops(context.shape, sizes),
            "latency_reduction": selection.reduction,
            "utility": selection.utility,
            "can_be_chosen": sizes >= len(context.vocabulary.must_keep),
        }
    )


def _lost(context: Context, name: str, selection: Selection) -> pd.DataFrame:
    """The most frequent tokens that the chosen vocabulary leaves out, on either side of the split."""
    sides, tokenizer = context.counts[name].sides, context.target.tokenizer
    ranked, held_out = sides.ranking.total(), sides.held_out.total()
    lost = lost_tokens(ranked + held_out, selection.order, len(selection.chosen), _MOST_LOST)
    rows = [
        {
            "token_id": token,
            "token": _readable(tokenizer, token),
            "count": count,
            "count_ranking": int(ranked[token]),
            "count_heldout": int(held_out[token]),
            "rank": int(np.flatnonzero(selection.order == token)[0]) + 1,
        }
        for token, count in lost
    ]
    columns = ["token_id", "token", "count", "count_ranking", "count_heldout", "rank"]
    return pd.DataFrame(rows, columns=columns)


def _readable(tokenizer, token: int) -> str:
    """The token as text; part of a character, which is none, as the tokenizer spells it."""
    text = tokenizer.decode([token])
    return tokenizer.convert_ids_to_tokens(token) if "\ufffd" in text else text


def _pareto(context: Context, selection: Selection) -> pd.DataFrame:
    flops = total_flops(context.shape, selection.sizes)
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
        return "one held-out conversation gives no interval"
    return None
