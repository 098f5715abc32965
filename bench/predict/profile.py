"""Where the acceptance of a pair on published GPUs is from: a profile, a run's replay, or a coverage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.analysis.run import Run, find_run, read_run
from bench.analysis.surfaces import Surfaces
from bench.config import Config
from bench.cost.shape import DraftShape
from bench.errors import ConfigError
from bench.predict.acceptance import acceptance_from_coverage, known_acceptance, read_profile
from bench.surface.lengths import NUM_SIZES, SMALLEST, Lengths, of_profile, of_replay, spread


def known_lengths(config: Config, draft: DraftShape, profile: Mapping[str, Any] | None) -> Lengths:
    """What the configuration knows of a draft's acceptance.

    Args:
        config: `predict.profile`, `predict.run` or `predict.coverage` say where it is from.
        draft: its shape.
        profile: taken where the configuration names none.

    Raises:
        ConfigError: nothing is known, or it is of another draft; the message says what to give.
    """
    wanted = config.predict
    if wanted.profile:
        return read_profile(Path(wanted.profile), draft)
    if wanted.run:
        return _of_run(read_run(find_run(config.runs_dir, wanted.run)), draft, wanted.domain)
    if wanted.coverage:
        return _of_coverage(config, draft)
    if profile is None:
        raise ConfigError(
            "nothing is known of this draft's acceptance: give predict.profile=<file of rates by position>, "
            "predict.run=<run of the same draft>, or predict.coverage=<table> predict.full_acceptance=<rate>"
        )
    return of_profile(profile, draft, "the published profile")


def _of_run(run: Run, draft: DraftShape, domain: str | None) -> Lengths:
    """From a run of the same draft: whole prompts are drawn."""
    domain = domain or next(iter(run.decodes))
    if domain not in run.decodes:
        raise ConfigError(f"predict.domain={domain}: the run measured {', '.join(run.decodes)}")
    if run.full_size != draft.draft_vocab_size:
        raise ConfigError(
            f"predict.run={run.folder.name} is of a draft with {run.full_size:,} tokens, but this draft has "
            f"{draft.draft_vocab_size:,} tokens: set predict.profile or predict.coverage instead"
        )
    source = run.plans[domain].source
    replays = [replay for _, replay in sorted(run.replays[domain][source].items())]
    # An answer of one token leaves nothing to draft.
    items = [replay.replayed() for replay in replays if len(replay.token_ids) > 1]
    sizes = spread(run.rankings[source].num_must_keep, run.full_size)
    longest = Surfaces(run).of(domain).draft_lengths[-1]
    origin = f"acceptance: replay of run {run.folder.name} on {domain}, {len(items)} prompts"
    return of_replay(items, longest, sizes, run.seed, origin)


def _of_coverage(config: Config, draft: DraftShape) -> Lengths:
    sizes, gammas, known = known_acceptance(config, draft)
    if known.coverage is None or config.predict.full_acceptance is None:
        raise ConfigError(
            "a coverage says what share of tokens k tokens hold, not what is accepted: give "
            "predict.full_acceptance, the acceptance rate at draft length 1 with the whole vocabulary"
        )
    kept = np.unique(np.linspace(0, len(sizes) - 1, NUM_SIZES).round().astype(int))
    kept = kept[sizes[kept] >= min(SMALLEST, sizes[-1])]
    accepted = config.predict.full_acceptance
    mean = [acceptance_from_coverage(known.coverage[kept], accepted, gamma) for gamma in gammas]
    return Lengths(sizes[kept], tuple(gammas), np.stack(mean)[None], known.origin, False)
