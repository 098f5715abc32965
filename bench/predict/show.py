"""A prediction on the console: a table, what to take, and everything that is assumed."""

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.fit.untried import Untried

_NUM_ROWS = 12


def show_prediction(title: str, found: Untried, console: Console) -> None:
    """Prints it.

    Args:
        title: which pair on what.
        found: the prediction.
        console: to print on.
    """
    table = Table(title=f"{title}, predicted", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    known = {
        "draft step ms": found.draft_step_ms,
        "round ms": found.round_ms,
        "x plain": found.speedup,
        "U": found.utility,
    }
    columns = {heading: values for heading, values in known.items() if values is not None}
    for heading in ("k", "gamma", *columns):
        table.add_column(heading, justify="right")
    places = set(np.linspace(0, len(found.sizes) - 1, _NUM_ROWS).round().astype(int).tolist())
    if found.chosen_k is not None:
        places.add(int(np.searchsorted(found.sizes, found.chosen_k)))
    for place in sorted(places):
        cells = [f"{column[place]:.4g}" for column in columns.values()]
        mark = " *" if found.sizes[place] == found.chosen_k else ""
        table.add_row(f"{found.sizes[place]:,}{mark}", str(found.draft_lengths[place]), *cells)
    console.print(table)
    if found.chosen_k is not None:
        console.print(f"[bold]{_choice(found, found.chosen_k)}[/bold]", highlight=False)
    console.print("Assumed, and not measured:")
    for assumption in found.assumptions:
        console.print(f"- {escape(assumption)}", highlight=False)


def _choice(found: Untried, chosen_k: int) -> str:
    at = int(np.searchsorted(found.sizes, chosen_k))
    of_full = found.draft_step_ms[at] / found.draft_step_ms[-1]
    step = (
        f"a draft step of {found.draft_step_ms[at]:.3g} ms, {of_full:.0%} of that with all "
        f"{found.sizes[-1]:,} tokens"
    )
    if found.speedup is None:
        return f"k* = {chosen_k:,}: {step}"
    gain = f"{found.speedup[at]:.2f}x plain decoding; the full vocabulary {found.speedup[-1]:.2f}x"
    return f"k* = {chosen_k:,} with gamma = {found.draft_lengths[at]}: {step}, {gain}"
