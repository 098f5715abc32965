"""From configurations to a prediction on the console: shapes, device, calibration."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.analysis.fit import series_of
from bench.analysis.hardware import draft_shape_of, hardware_of
from bench.analysis.run import Run, find_run, read_run
from bench.assets import notice_of
from bench.config import Config, GpuConfig, PairConfig, PredictConfig
from bench.config.gpu import data_sheet, match
from bench.cost.config_json import read_config
from bench.cost.hardware import HardwareSpec
from bench.cost.shape import DraftShape, Pass, total_cost
from bench.errors import ConfigError
from bench.fit.fitting import FittedModel, fit, resample_medians
from bench.fit.models import AffineBytes
from bench.fit.series import DRAFT_STEP, DTYPE_BYTES
from bench.predict.acceptance import known_acceptance
from bench.predict.latency import latency_of
from bench.predict.model import Calibration, Prediction, Setting, predict_draft

_DEFAULT_DTYPE = "bfloat16"

# Few: a calibration uses the coefficients, not their intervals.
_RESAMPLES = 20


def run_predict(config: Config, console: Console) -> Prediction:
    """Prints expected latency and speedup of every size, the (k, gamma) to take, and all that is assumed.

    Raises:
        BenchError: wrong input.
    """
    draft, target = _shapes(config.pair, console)
    dtype = config.predict.dtype or (_DEFAULT_DTYPE if config.dtype == "auto" else config.dtype)
    spec = _spec(config.gpu, dtype)
    sizes, gammas, acceptance = known_acceptance(config, draft)
    calibration = _calibration(config.predict, config.runs_dir)
    latency, origin = latency_of(config.gpu, config.predict, spec, dtype, calibration, console)
    setting = Setting(dtype, gammas, config.predict.context_length)
    found = predict_draft(draft, target, latency, sizes, setting, acceptance)
    show_prediction(f"{config.pair.label} on {spec.name}", found, console)
    console.print(f"Latency: {origin}.", highlight=False)
    return found


def _shapes(pair: PairConfig, console: Console) -> tuple[DraftShape, DraftShape]:
    # Imported late: they bring in torch, which a refused configuration does not need.
    from bench.models.checkpoint import resolve_pair_draft, shape_of_pair
    from bench.models.fetching import resolve_tokenizer

    if notice := notice_of(pair.draft):
        console.print(notice, soft_wrap=True, highlight=False)
    draft = shape_of_pair(pair, resolve_pair_draft(pair, weights=False))
    path = resolve_tokenizer(pair.target, pair.target_revision) / "config.json"
    return draft, DraftShape.from_config(read_config(path)[1], str(path))


def _spec(gpu: GpuConfig, dtype: str) -> HardwareSpec:
    """The data sheet of a named GPU, present or not; else of the device here, by name or measured.

    Raises:
        ConfigError: it has no unit for `dtype`.
    """
    spec = _rates(gpu, dtype)
    if spec.peak(dtype) is None:
        others = [name for name in ("float16", "bfloat16", "float32") if spec.peak(name) is not None]
        raise ConfigError(
            f"{spec.name} has no peak for {dtype} ({spec.source}): set predict.dtype={' or '.join(others)}"
        )
    return spec


def _rates(gpu: GpuConfig, dtype: str) -> HardwareSpec:
    if gpu.name_pattern:
        return data_sheet(gpu)
    import torch

    from bench.device import open_device
    from bench.device.probe import probe

    device = open_device(gpu.device)
    return match(device.name) or probe(device, getattr(torch, dtype))


def _calibration(wanted: PredictConfig, runs_dir: Path) -> Calibration:
    """Which share of its limits a device reaches, by a measured run if one is given, and the launch time."""
    found, launch_us = Calibration(), wanted.launch_us
    if wanted.calibration is not None:
        found = _measured(read_run(find_run(runs_dir, wanted.calibration)), wanted.context_length)
    if launch_us is None:
        return found
    given = f"every kernel is launched in {launch_us:g} us (predict.launch_us)"
    return replace(found, launch_us=launch_us, launch_origin=given)


def _measured(run: Run, context_length: int) -> Calibration:
    where = f"predict.calibration={run.folder.name}"
    spec, shape = hardware_of(run), draft_shape_of(run)
    series = next((item for item in series_of([run]) if item.component == DRAFT_STEP), None)
    fitted = series and fit(AffineBytes(), series, resample_medians(series, _RESAMPLES, run.seed), run.seed)
    if not isinstance(fitted, FittedModel) or spec is None or shape is None:
        raise ConfigError(
            f"{where}: the run says too little of its device; measure again, with several vocabulary sizes "
            "and a draft length of 2 or more"
        )
    t0_ms, rate = fitted.coefficient("t0_ms"), fitted.coefficient("bytes_per_s")
    if t0_ms is None or rate is None:
        raise ConfigError(f"{where}: its sizes do not bound the bandwidth")
    size, width = int(fitted.work.sizes[-1]), DTYPE_BYTES[run.environment["dtype"]]
    step = total_cost(shape.cost(Pass(1, context_length, 1, width), size))
    return Calibration.measured(t0_ms, rate, step, spec, str(run.environment["device_name"]))


_NUM_ROWS = 12


def show_prediction(title: str, found: Prediction, console: Console) -> None:
    """Prints a table, what to take, and everything that is assumed.

    Args:
        title: which pair on which device.
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


def _choice(found: Prediction, chosen_k: int) -> str:
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
