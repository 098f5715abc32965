"""What is known of a draft's acceptance: the acceptance of a measured run, or a coverage curve instead."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from bench.analysis.coverage_table import CoverageTable, read_coverage
from bench.analysis.run import find_run, read_run
from bench.analysis.surfaces import Surfaces
from bench.config import Config, PredictConfig
from bench.cost.shape import DraftShape
from bench.errors import ConfigError
from bench.fit.series import IntArray
from bench.stats.robust import Floats
from bench.surface.lengths import Lengths, of_profile

_SMALLEST = 64

_NUM_SIZES = 400

# The draft length of the rounds shown if nothing says which one is the fastest.
_USUAL_DRAFT_LENGTH = 3


@dataclass(frozen=True)
class Acceptance:
    """What is known of a draft's acceptance, per size `m`.

    Attributes:
        mean_length: mean acceptance length of each draft length and size `(gammas, m)`; None where unknown.
        origin: where it is from, in words.
        coverage: share of tokens inside each size `(m,)`; None where unknown.
        coverage_weight: of the utility.
    """

    mean_length: Floats | None = None
    origin: str = "the acceptance holds for this draft, target and text"
    coverage: Floats | None = None
    coverage_weight: float = 0.5


Known = tuple[IntArray, tuple[int, ...], Acceptance]


def known_acceptance(config: Config, draft: DraftShape) -> Known:
    """Sizes to look at, draft lengths to choose from, and what is known there.

    Raises:
        ConfigError: a run or a table does not say it, or is of another draft.
    """
    if config.predict.run:
        return _of_run(config.predict, config.runs_dir, draft)
    if config.predict.profile:
        return _of_profile(Path(config.predict.profile), config.predict.draft_length, draft)
    if config.predict.coverage:
        lengths, weight = config.measure.draft_lengths, config.select.coverage_weight
        return _of_table(Path(config.predict.coverage), config.predict, lengths, weight, draft)
    gamma = config.predict.draft_length or _USUAL_DRAFT_LENGTH
    return _spread(draft.draft_vocab_size), (gamma,), Acceptance()


def acceptance_from_coverage(coverage: Floats, full_acceptance: float, draft_length: int) -> Floats:
    """Mean acceptance length if every drafted token were accepted with chance `full_acceptance` C(k).

    A chain of gamma tokens, each as likely as the one before: (1 - x^(gamma+1)) / (1 - x). Measured
    acceptance does not follow coverage well: what a draft gets right are mostly frequent tokens.

    Args:
        coverage: C(k) `(m,)`.
        full_acceptance: chance of one token with the full vocabulary.
        draft_length: gamma.
    """
    powers = np.arange(draft_length + 1)
    return ((full_acceptance * coverage)[:, None] ** powers).sum(axis=1)


def read_profile(path: Path, draft: DraftShape) -> Lengths:
    """The acceptance lengths of a YAML or JSON file.

    Raises:
        ConfigError: it cannot be read, or a value is missing, unknown or impossible.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"predict.profile={path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"predict.profile={path}: expected keys and values")
    return of_profile(values, draft, f"predict.profile={path}")


def _of_profile(path: Path, wanted: int | None, draft: DraftShape) -> Known:
    found = read_profile(path, draft)
    gammas = found.draft_lengths if wanted is None else (wanted,)
    if gammas[0] not in found.draft_lengths:
        lengths = ", ".join(map(str, found.draft_lengths))
        raise ConfigError(f"predict.draft_length={gammas[0]}: the profile has {lengths}")
    rows = [found.draft_lengths.index(gamma) for gamma in gammas]
    return found.sizes, gammas, Acceptance(found.mean[0, rows], found.origin)


def _of_run(wanted: PredictConfig, runs_dir: Path, draft: DraftShape) -> Known:
    run = read_run(find_run(runs_dir, str(wanted.run)))
    domain = wanted.domain or next(iter(run.decodes))
    if domain not in run.decodes:
        raise ConfigError(f"predict.domain={domain}: the run measured {', '.join(run.decodes)}")
    if run.full_size != draft.draft_vocab_size:
        raise ConfigError(
            f"predict.run={run.folder.name} is of a draft of {run.full_size:,} tokens, this one has "
            f"{draft.draft_vocab_size:,}: its acceptance says nothing here; give predict.coverage"
        )
    surface = Surfaces(run).of(domain)
    gammas = surface.draft_lengths if wanted.draft_length is None else [wanted.draft_length]
    if gammas[0] not in surface.draft_lengths:
        lengths = ", ".join(map(str, surface.draft_lengths))
        raise ConfigError(f"predict.draft_length={gammas[0]}: the run replayed {lengths}")
    sizes = _spread(run.full_size, int(surface.sizes[0]))
    sizes = np.union1d(sizes, surface.sizes[surface.sizes >= _SMALLEST])
    columns = [surface.column(int(size)) for size in sizes]
    rows = [surface.draft_lengths.index(gamma) for gamma in gammas]
    origin = (
        f"the acceptance that run {run.folder.name} measured on {domain} ({run.environment['pair']}) holds "
        "for this draft, target and text"
    )
    tau = surface.mean_acceptance_length[np.ix_(rows, columns)]
    return sizes, tuple(gammas), Acceptance(tau, origin)


def _of_table(
    path: Path, wanted: PredictConfig, draft_lengths: list[int], weight: float, draft: DraftShape
) -> Known:
    table = read_coverage(path, "predict.coverage", wanted.domain, "predict.domain")
    sizes, coverage = _coverage(table, path, draft.draft_vocab_size)
    accepted = wanted.full_acceptance
    if accepted is None:
        gamma = wanted.draft_length or _USUAL_DRAFT_LENGTH
        return sizes, (gamma,), Acceptance(coverage=coverage, coverage_weight=weight)
    lengths = draft_lengths if wanted.draft_length is None else [wanted.draft_length]
    gammas = tuple(sorted(set(lengths)))
    tau = np.stack([acceptance_from_coverage(coverage, accepted, gamma) for gamma in gammas])
    origin = (
        f"a vocabulary of k has each drafted token accepted with chance {accepted:g} C(k), whatever came "
        "before it; coverage is not acceptance: what drafts get right are mostly frequent tokens, so that "
        "small vocabularies are often better than this"
    )
    return sizes, gammas, Acceptance(tau, origin, coverage, weight)


def _coverage(table: CoverageTable, path: Path, full_size: int) -> tuple[IntArray, Floats]:
    """Sizes and their coverage: straight lines inside the table, and the full vocabulary, which has all."""
    known, values = table.sizes.astype(np.float64), table.coverage
    if known[0] < 1 or known[-1] > full_size:
        raise ConfigError(
            f"predict.coverage={path} is of sizes {known[0]:,.0f} to {known[-1]:,.0f}, but the draft has "
            f"{full_size:,} tokens: give the curve of its own vocabulary"
        )
    if known[-1] < full_size:
        inside = _spread(full_size)
        inside = inside[(inside >= known[0]) & (inside <= known[-1])]
        sizes = np.union1d(inside, known.astype(np.int64))
        covered = np.interp(sizes, known, values)
        return np.append(sizes, full_size), np.append(covered, 1.0)
    sizes = _spread(full_size, int(known[0]))
    sizes = np.union1d(sizes[sizes >= known[0]], known.astype(np.int64))
    return sizes, np.interp(sizes, known, values)


def _spread(full_size: int, smallest: int = _SMALLEST) -> IntArray:
    """Sizes from small to all, closely."""
    least = min(max(smallest, _SMALLEST), full_size)
    return np.unique(np.geomspace(least, full_size, _NUM_SIZES).round().astype(np.int64))
