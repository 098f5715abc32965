"""`task=predict`, start to end: what a draft that is not loaded would do on a GPU that is not here."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.assets import notice_of
from bench.config import Config
from bench.cost.components import draft_step_cost, total_cost
from bench.cost.flops import DraftShape
from bench.cost.hardware import HardwareSpec, match, read_specs
from bench.errors import ConfigError
from bench.fit.models import AFFINE_BYTES
from bench.fit.series import DRAFT_STEP, DTYPE_BYTES, Floats, IntArray
from bench.fit.untried import Calibration, Setting, Untried, calibrate, predict_untried
from bench.model_config import read_config
from bench.report.coverage_table import read_coverage
from bench.report.fit import judge_run
from bench.report.frames import read_run
from bench.report.hardware import draft_shape_of, hardware_of
from bench.report.render import find_run
from bench.report.surfaces import Surfaces

_NUM_ROWS = 12


@dataclass(frozen=True)
class _Known:
    """What is known of the draft's proposals, per size; at most one of the two."""

    acceptance_length: Floats | None = None
    coverage: Floats | None = None
    sizes: IntArray | None = None


def run_predict(config: Config, console: Console) -> Untried:
    """Prints expected latency and speedup of every size, the k to take, and everything that is assumed.

    Raises:
        BenchError: anything the user can mend.
    """
    draft, target = _shapes(config, console)
    spec = _spec(config)
    known = _known(config, draft)
    sizes = known.sizes if known.sizes is not None else _spread(draft.draft_vocab_size)
    wanted = config.predict
    setting = Setting(wanted.dtype, wanted.draft_length, wanted.context_length)
    found = predict_untried(
        draft,
        target,
        spec,
        sizes,
        setting,
        _calibration(config),
        known.acceptance_length,
        known.coverage,
        config.select.coverage_weight,
    )
    _show(config, spec, found, console)
    return found


def _shapes(config: Config, console: Console) -> tuple[DraftShape, DraftShape]:
    # Imported late: they bring in torch, which a refused configuration does not need.
    from bench.models.checkpoint import resolve_draft
    from bench.models.target import resolve_tokenizer

    pair = config.pair
    if notice := notice_of(pair.draft):
        console.print(notice, soft_wrap=True, highlight=False)
    folders = (
        resolve_draft(pair.draft, pair.draft_revision, weights=False),
        resolve_tokenizer(pair.target, pair.target_revision),
    )
    paths = [folder / "config.json" for folder in folders]
    draft, target = (DraftShape.from_config(read_config(path)[1], str(path)) for path in paths)
    return draft, target


def _spec(config: Config) -> HardwareSpec:
    """The data sheet of a named GPU, present or not; else of the device here, by name or measured."""
    if config.gpu.name_pattern:
        return next(spec for spec in read_specs() if spec.name_pattern == config.gpu.name_pattern)
    import torch

    from bench.device import open_device
    from bench.fit.probe import probe

    device = open_device(config.gpu.device)
    return match(device.name) or probe(device, getattr(torch, config.predict.dtype))


def _known(config: Config, draft: DraftShape) -> _Known:
    if config.predict.run:
        return _acceptance(config, draft)
    if config.predict.coverage:
        return _coverage(Path(config.predict.coverage), draft)
    return _Known()


def _acceptance(config: Config, draft: DraftShape) -> _Known:
    wanted, run = config.predict, read_run(find_run(config.runs_dir, str(config.predict.run)))
    domain = wanted.domain or next(iter(run.decodes))
    if domain not in run.decodes:
        raise ConfigError(f"predict.domain={domain}: the run measured {', '.join(run.decodes)}")
    surface = Surfaces(run).of(domain)
    if wanted.draft_length not in surface.draft_lengths:
        lengths = ", ".join(map(str, surface.draft_lengths))
        raise ConfigError(f"predict.draft_length={wanted.draft_length}: the run replayed {lengths}")
    if run.full_size != draft.draft_vocab_size:
        raise ConfigError(
            f"predict.run={run.folder.name} is of a draft of {run.full_size:,} tokens, this one has "
            f"{draft.draft_vocab_size:,}: its acceptance says nothing here; give predict.coverage"
        )
    sizes = np.union1d(_spread(draft.draft_vocab_size), surface.sizes[surface.sizes >= _SMALLEST])
    row = surface.mean_acceptance_length[surface.draft_lengths.index(wanted.draft_length)]
    return _Known(acceptance_length=row[[surface.column(int(size)) for size in sizes]], sizes=sizes)


def _coverage(path: Path, draft: DraftShape) -> _Known:
    sizes = _spread(draft.draft_vocab_size)
    return _Known(coverage=read_coverage(path, "predict.coverage").at(sizes), sizes=sizes)


_SMALLEST = 64


def _spread(full_size: int) -> IntArray:
    """Sizes from small to all, closely."""
    grid = np.geomspace(min(_SMALLEST, full_size), full_size, 400).round().astype(np.int64)
    return np.unique(grid)


def _calibration(config: Config) -> Calibration | None:
    """How near to its limits the device of a measured run came."""
    if config.predict.calibration is None:
        return None
    run = read_run(find_run(config.runs_dir, config.predict.calibration))
    judged = judge_run(Surfaces(run)).components.get(DRAFT_STEP)
    spec, shape = hardware_of(run), draft_shape_of(run)
    model = judged.model(AFFINE_BYTES.name) if judged else None
    if judged is None or model is None or spec is None or shape is None:
        raise ConfigError(
            f"predict.calibration={run.folder.name}: the run says too little of its device; measure again, "
            "with several vocabulary sizes and a draft length of 2 or more"
        )
    t0_ms, rate = model.fitted.coefficient("t0_ms"), model.fitted.coefficient("bytes_per_s")
    if t0_ms is None or rate is None:
        raise ConfigError(f"predict.calibration={run.folder.name}: its sizes do not bound the bandwidth")
    size, width = int(judged.series.work.sizes[-1]), DTYPE_BYTES[run.environment["dtype"]]
    step = total_cost(draft_step_cost(shape, size, config.predict.context_length, 1, width))
    return calibrate(t0_ms, rate, step, spec, str(run.environment["device_name"]))


def _show(config: Config, spec: HardwareSpec, found: Untried, console: Console) -> None:
    table = Table(
        title=f"{config.pair.name} on {spec.name}, predicted", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for heading in ("k", "draft step ms", "round ms", "x plain", "U"):
        table.add_column(heading, justify="right")
    places = set(np.linspace(0, len(found.sizes) - 1, _NUM_ROWS).round().astype(int).tolist())
    if found.chosen_k is not None:
        places.add(int(np.searchsorted(found.sizes, found.chosen_k)))
    for place in sorted(places):
        columns = (found.draft_step_ms, found.round_ms, found.speedup, found.utility)
        cells = ["" if column is None else f"{column[place]:.4g}" for column in columns]
        mark = " *" if found.sizes[place] == found.chosen_k else ""
        table.add_row(f"{found.sizes[place]:,}{mark}", *cells)
    console.print(table)
    if found.chosen_k is not None:
        at = int(np.searchsorted(found.sizes, found.chosen_k))
        gain = f", {found.speedup[at]:.2f}x plain decoding" if found.speedup is not None else ""
        of_full = found.draft_step_ms[at] / found.draft_step_ms[-1]
        console.print(
            f"[bold]k* = {found.chosen_k:,}: a draft step of {found.draft_step_ms[at]:.3g} ms, {of_full:.0%} "
            f"of that with all {found.sizes[-1]:,} tokens{gain}[/bold]",
            highlight=False,
        )
    console.print("Assumed, and not measured:")
    for assumption in found.assumptions:
        console.print(f"- {escape(assumption)}", highlight=False)
