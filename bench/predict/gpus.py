"""`task=gpus`: a pair on every GPU of which kernel latencies are published, start to end."""

from pathlib import Path

from rich.console import Console

from bench.analysis.gpus import GpusFindings, Question, ask_gpus, nearest_width
from bench.analysis.published import WIDTHS
from bench.assets import notice_of
from bench.config import Config, GpusConfig
from bench.errors import ConfigError
from bench.gpu_tables.ready import Pair, pair_of_files, ready_pair
from bench.gpu_tables.tidy import ASSET, WEIGHT_BYTES, Tables, published, read_csv
from bench.predict.profile import known_lengths
from bench.report.tasks import render_gpus


def run_gpus(config: Config, console: Console) -> GpusFindings:
    """Writes the page of the pair and prints what to use where.

    Raises:
        BenchError: anything the user can fix.
    """
    wanted = config.gpus
    if strange := [dtype for dtype in wanted.dtypes if dtype not in WEIGHT_BYTES]:
        raise ConfigError(f"gpus.dtypes: {strange[0]} is unknown; known are {', '.join(WEIGHT_BYTES)}")
    pair = _pair(wanted)
    lengths = known_lengths(config, pair.draft, pair.profile)
    question = Question(
        pair,
        lengths,
        wanted.dtypes,
        sorted(set(wanted.batches)),
        sorted(set(wanted.contexts)),
        wanted.judge_widths or [nearest_width(pair.draft.hidden_size)],
    )
    found = ask_gpus(_tables(config.gpu_tables, console), question, wanted.names, wanted.engines)
    for width in wanted.judge_widths:
        if not (found.models["hidden_size"] == width).any():
            raise ConfigError(f"gpus.judge_widths: no table has six LM heads at {width}; try {WIDTHS}")
    folder = config.out_dir or config.reports_dir / f"gpus-{_file_name(pair.name)}"
    render_gpus(found, folder, console)
    return found


def _tables(own_folder: str | None, console: Console) -> list[Tables]:
    """The published tables, and the user's own beside them."""
    own = [] if own_folder is None else [read_csv(Path(own_folder))]
    if notice := notice_of(ASSET):
        console.print(notice, soft_wrap=True, highlight=False)
    return [published(), *own]


def _pair(wanted: GpusConfig) -> Pair:
    if wanted.target is None or wanted.draft is None:
        return ready_pair(wanted.shape, "gpus.shape")
    return pair_of_files(Path(wanted.target), Path(wanted.draft))


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
