"""From configurations to a prediction: shapes, rates of the device, how near it comes to them."""

from dataclasses import replace

from rich.console import Console

from bench.assets import notice_of
from bench.config import Config
from bench.cost.components import draft_step_cost, total_cost
from bench.cost.flops import DraftShape
from bench.cost.hardware import HardwareSpec, data_sheet, match
from bench.errors import ConfigError
from bench.fit.calibration import Calibration, calibrate
from bench.fit.fitting import FittedModel, fit
from bench.fit.models import AFFINE_BYTES
from bench.fit.resampling import resample_medians
from bench.fit.series import DRAFT_STEP, DTYPE_BYTES
from bench.fit.untried import Setting, Untried, predict_untried
from bench.model_config import read_config
from bench.predict.proposals import known_proposals
from bench.predict.show import show_prediction
from bench.report.fit import series_of
from bench.report.frames import read_run
from bench.report.hardware import draft_shape_of, hardware_of
from bench.report.render import find_run

_DEFAULT_DTYPE = "bfloat16"
# A calibration takes the coefficients, not their intervals.
_RESAMPLES = 20


def run_predict(config: Config, console: Console) -> Untried:
    """Prints expected latency and speedup of every size, the (k, gamma) to take, and all that is assumed.

    Raises:
        BenchError: anything the user can mend.
    """
    draft, target = _shapes(config, console)
    dtype = _dtype(config)
    spec = _spec(config, dtype)
    sizes, gammas, proposals = known_proposals(config, draft)
    found = predict_untried(
        draft,
        target,
        spec,
        sizes,
        Setting(dtype, gammas, config.predict.context_length),
        _calibration(config),
        proposals,
    )
    show_prediction(f"{config.pair.label} on {spec.name}", found, console)
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


def _dtype(config: Config) -> str:
    if config.predict.dtype is not None:
        return config.predict.dtype
    return _DEFAULT_DTYPE if config.dtype == "auto" else config.dtype


def _spec(config: Config, dtype: str) -> HardwareSpec:
    """The data sheet of a named GPU, present or not; else of the device here, by name or measured.

    Raises:
        ConfigError: it has no unit for `dtype`.
    """
    spec = _rates(config, dtype)
    if spec.peak(dtype) is None:
        others = [name for name in ("float16", "bfloat16", "float32") if spec.peak(name) is not None]
        raise ConfigError(
            f"{spec.name} has no peak for {dtype} ({spec.source}): set predict.dtype={' or '.join(others)}"
        )
    return spec


def _rates(config: Config, dtype: str) -> HardwareSpec:
    if config.gpu.name_pattern:
        return data_sheet(config.gpu.name_pattern, config.gpu.spec)
    import torch

    from bench.device import open_device
    from bench.fit.probe import probe

    device = open_device(config.gpu.device)
    return match(device.name) or probe(device, getattr(torch, dtype))


def _calibration(config: Config) -> Calibration:
    """How near to its limits the device of a measured run came, and what a launch costs."""
    found = Calibration() if config.predict.calibration is None else _measured(config)
    launch_us = config.predict.launch_us
    if launch_us is None:
        return found
    given = f"every kernel is launched in {launch_us:g} us (predict.launch_us)"
    return replace(found, launch_us=launch_us, launch_origin=given)


def _measured(config: Config) -> Calibration:
    run = read_run(find_run(config.runs_dir, str(config.predict.calibration)))
    where = f"predict.calibration={run.folder.name}"
    spec, shape = hardware_of(run), draft_shape_of(run)
    series = next((item for item in series_of([run]) if item.component == DRAFT_STEP), None)
    fitted = series and fit(AFFINE_BYTES, series, resample_medians(series, _RESAMPLES, run.seed), run.seed)
    if not isinstance(fitted, FittedModel) or spec is None or shape is None:
        raise ConfigError(
            f"{where}: the run says too little of its device; measure again, with several vocabulary sizes "
            "and a draft length of 2 or more"
        )
    t0_ms, rate = fitted.coefficient("t0_ms"), fitted.coefficient("bytes_per_s")
    if t0_ms is None or rate is None:
        raise ConfigError(f"{where}: its sizes do not bound the bandwidth")
    size, width = int(fitted.work.sizes[-1]), DTYPE_BYTES[run.environment["dtype"]]
    step = total_cost(draft_step_cost(shape, size, config.predict.context_length, 1, width))
    return calibrate(t0_ms, rate, step, spec, str(run.environment["device_name"]))
