"""What each part of a speculative round costs, from probes inside real rounds, block by block.

A block is what was probed in one stretch of time: of the domain on one prompt, and of other domains in the
same turn. Of several processes each is one block, as what a process has once, such as where its memory lies,
is in all of its blocks of time.

A round of k and gamma drafts gamma tokens (LM head and selection each time, the layer between them),
verifies gamma + 1 tokens, and extends the draft over what was accepted. Head and selection depend on k, and
so does the layer, although its work is the same: a larger head leaves less of its weights in the cache.
Verification, extension and the rest depend on gamma.

On a device that works behind the host's back the parts do not add up: while the head of a large vocabulary
runs, the launches of what follows are already queued, and after a small one the device waits for them. Layer
and verification then seem to take longer as the head shrinks. There, whole rounds are what is known of
every (k, gamma).

What is the same work in every domain is estimated from the probes of all domains: a head of k rows,
whichever they are, a layer among such heads, a pass of the target over gamma + 1 tokens. Layer and target
also read the context, whose length differs, so that those of a domain are those of all and a constant. The
rest is estimated from the domain's own probes; so are steps of plain decoding, whose single row may take
another way through the attention than several rows do, and another constant.

Heads, layers, verifications, extensions and plain steps can be had at the pace that another run met, see
`bench.surface.pace`. The rest is short, or comes once an answer, and stays as it was.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from types import MappingProxyType

import numpy as np
from scipy.optimize import isotonic_regression

from bench.records import ProbeRecord
from bench.surface.chains import joined_rounds, whole_rounds_ms, with_parts
from bench.surface.pace import LEAST_STRETCHES, Pace, Stretch, paces_of, stretch_of
from bench.variant import DRAFT, EXTEND, HEAD, LAYER, OTHER, PREFILL, SELECT, VERIFY
from bench.vocab.draft_vocab import Floats, IntArray

# Parts that come once a round, as functions of the draft length.
PER_ROUND = (EXTEND, VERIFY, OTHER)

_PLAIN = "plain"

Probes = Sequence[ProbeRecord]

_LEAST_SPREAD = 1e-9  # of the pace in one direction, as a share of that in the other; below it there is none


@dataclass(frozen=True)
class _Placed:
    """Probes of one domain, each in a block of the domain that is asked about.

    Attributes:
        probes: with the laps that are gathered.
        places: of their blocks.
        num_blocks: of the domain that is asked about.
        are_processes: whether blocks are processes.
    """

    probes: Probes
    places: Mapping[str, int]
    num_blocks: int
    are_processes: bool

    @classmethod
    def of(
        cls, probes: Probes, places: Mapping[str, int], are_processes: bool, laps_overlap: bool
    ) -> "_Placed":
        """Of the domain that is asked about."""
        drafted = [p for p in probes if p.draft_length]
        parts = with_parts([joined_rounds(p) for p in drafted] if laps_overlap else drafted)
        plain = [p for p in probes if not p.draft_length]
        return cls([*parts, *plain], places, len(places), are_processes)

    @classmethod
    def among(
        cls, probes: Probes, places: Mapping[str, int], are_processes: bool, laps_overlap: bool
    ) -> "_Placed":
        """Of another domain: in its order of time, as domains take turns.

        Its blocks are spread over those that there are, as turns are over the prompts of a domain.
        """
        theirs = _places(probes, are_processes)
        spread = {block: place * len(places) // len(theirs) for block, place in theirs.items()}
        found = cls.of(probes, places, are_processes, laps_overlap)
        return found if are_processes else replace(found, places=spread)

    def each(self) -> Iterator[tuple[ProbeRecord, int]]:
        """Every probe with the place of its block."""
        for probe in self.probes:
            place = self.places.get(_block_of(probe, self.are_processes))
            if place is not None:
                yield probe, place


@dataclass(frozen=True)
class _Samples:
    """Sums and numbers of samples `(levels, blocks)`, from which any resample's means follow.

    Attributes:
        by_domain: the same of each domain, which differ by a constant, that which is asked about first; empty
            where a domain makes no difference.
        moments: sums of x1, x2, x1 x1, x1 x2, x2 x1, x2 x2, of x1 and x2 times the sample, and of the
            variance of the error of x1, where x is how far the pace was from the reference
            `(9, levels, blocks)`; None: times are as they were.
        part: of a head, a layer and a verification, each level has slopes of its own over x1 and x2, as they
            differ in what they read or work; an extension's levels have the same.
    """

    levels: IntArray
    total: Floats
    count: Floats
    by_domain: tuple["_Samples", ...] = ()
    moments: Floats | None = None
    part: str = ""

    def only(self, blocks: list[int]) -> "_Samples":
        """Those of some blocks."""
        moments = None if self.moments is None else self.moments[:, :, blocks]
        return replace(
            self,
            total=self.total[:, blocks],
            count=self.count[:, blocks],
            by_domain=tuple(samples.only(blocks) for samples in self.by_domain),
            moments=moments,
        )

    @classmethod
    def of(
        cls,
        part: str,
        levels: IntArray,
        of_domains: Sequence["_Placed"],
        apart: Mapping[Stretch, Floats] = MappingProxyType({}),
    ) -> "_Samples":
        """Of a part at levels of k or gamma; a prefill is of no level but 0.

        Args:
            part: its name.
            levels: of its rows.
            of_domains: where its samples are.
            apart: of every stretch of time, how far its pace was from the reference, as a share, and the
                variance of the first time's error `(3,)`; a stretch without it counts as an average one.
                Empty: times are as they were.
        """
        row_of = {int(level): row for row, level in enumerate(levels)}
        total = np.zeros((len(levels), of_domains[0].num_blocks))
        count, moments = np.zeros_like(total), np.zeros((9, *total.shape))
        average = np.mean(list(apart.values()), axis=0) if apart else None
        for placed in of_domains:
            for probe, place in placed.each():
                level = probe.draft_length if part in PER_ROUND else probe.vocab_size
                row = row_of.get(0 if part == PREFILL else level)
                samples = probe.laps_ms.get(part, [])
                if samples and row is not None:
                    total[row, place] += sum(samples)
                    count[row, place] += len(samples)
                    if average is not None:
                        *x, error = apart.get(stretch_of(probe), average)
                        of_x, of_xy = np.array([*x, *np.outer(x, x).ravel()]), np.multiply(x, sum(samples))
                        of_samples = [*(len(samples) * of_x), *of_xy, len(samples) * error]
                        moments[:, row, place] += of_samples
        return cls(levels, total, count, (), moments if apart else None, part)

    @classmethod
    def with_constant(
        cls, part: str, levels: IntArray, of_domains: Sequence["_Placed"], apart: Mapping[Stretch, Floats]
    ) -> "_Samples":
        """As `of`; domains differ by a constant."""
        by_domain = tuple(cls.of(part, levels, [placed], apart) for placed in of_domains)
        return replace(cls.of(part, levels, of_domains, apart), by_domain=by_domain)

    def means(self, weights: Floats) -> Floats:
        """Mean by resample and level `(resamples, levels)`, for weights `(resamples, blocks)`.

        A resample without a sample of some level takes the mean of all blocks; a level without any sample
        takes no time. Answers that end in their first round have such levels.
        """
        slopes = self._slopes(weights)
        found = self._at_reference(weights, slopes)
        if not self.by_domain:
            return found
        own = self.by_domain[0]
        of_own = np.where(own.count.sum(1) > 0, weights @ own.count.T, 0)
        apart = of_own * (own._at_reference(weights, slopes) - found)
        beyond = apart.sum(1) / np.maximum(of_own.sum(1), 1)
        return np.where(self.count.sum(1) > 0, found + beyond[:, None], found)

    def _at_reference(self, weights: Floats, slopes: Floats) -> Floats:
        count = weights @ self.count.T
        overall = self.total.sum(1) / np.maximum(self.count.sum(1), 1)
        found = np.where(count > 0, (weights @ self.total.T) / np.maximum(count, 1), overall)
        if self.moments is None:
            return found
        of_x = np.stack([weights @ moment.T for moment in self.moments[:2]], axis=-1)
        return found - np.sum(slopes * of_x, axis=-1) / np.maximum(count, 1)

    def _slopes(self, weights: Floats) -> Floats:
        """How a level's time changes with both times of the pace `(resamples, levels, 2)`: least squares.

        Where the pace did not change in some direction, neither do times. Errors of x1 flatten a line, but
        not that of the whole head, whose own they are. So for other heads, what they add to the spread of x1
        is taken off again, at most half of what x1 spreads beside x2 (W. Fuller, Measurement Error Models,
        1987). Other parts are flattened alike at every size.
        """
        shape = (len(weights), len(self.levels), 2)
        if self.moments is None:
            return np.zeros(shape)
        sums = [one._about_means(weights) for one in self.by_domain or (self,)]
        spread, rise = (np.sum(found, axis=0) for found in zip(*sums, strict=True))
        if self.part == HEAD:
            known = np.maximum(spread[..., 1, 1], np.finfo(float).tiny)
            beside = spread[..., 0, 0] - spread[..., 0, 1] ** 2 / known
            error = np.minimum(weights @ self.moments[8].T, beside / 2)
            spread[..., 0, 0] -= np.where(self.levels < self.levels[-1], error, 0)
        if self.part not in (HEAD, LAYER, VERIFY):
            spread, rise = (found.sum(axis=1, keepdims=True) for found in (spread, rise))
        slopes = np.linalg.pinv(spread, rcond=_LEAST_SPREAD, hermitian=True) @ rise[..., None]
        return np.broadcast_to(slopes[..., 0], shape)

    def _about_means(self, weights: Floats) -> tuple[Floats, Floats]:
        """Sums of x times x and of x times the sample, less their level's mean.

        Of each resample and level: `(resamples, levels, 2, 2)` and `(resamples, levels, 2)`.
        """
        assert self.moments is not None
        sums = np.stack([weights @ moment.T for moment in self.moments[:8]], axis=-1)
        of_x, of_xx, of_xy = np.split(sums, [2, 6], axis=-1)
        count = np.maximum(weights @ self.count.T, 1)[..., None]
        spread = of_xx.reshape(*of_x.shape, 2) - of_x[..., None] * of_x[..., None, :] / count[..., None]
        return spread, of_xy - of_x * (weights @ self.total.T)[..., None] / count


@dataclass(frozen=True)
class RoundLatency:
    """Measured latency of a round's parts, by block: of one stretch of time, or of one process.

    Attributes:
        blocks: the domain's prompt ids in the order of their probes, or numbers of processes.
        prefill_ms: the draft's prefill of each block's prompts `(blocks,)`.
        sizes: vocabulary sizes that were probed, ascending.
        draft_lengths: gammas that were probed, ascending.
        times_heads: `head_ms` is a whole head's time; else only whole chains or rounds have a time, and it is
            what a head takes beyond that of the smallest size.
        paces: of each stretch of the run, of all domains `(stretches, 2)`, as `Pace.times`; empty where heads
            have no time.
        reference: the pace at which times are had; None: they are as they were.
    """

    blocks: list[str]
    prefill_ms: Floats
    sizes: IntArray
    draft_lengths: IntArray
    _by_part: Mapping[str, _Samples]
    _whole: Mapping[int, _Samples] | None = None
    times_heads: bool = True
    paces: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    reference: Pace | None = None

    @classmethod
    def from_probes(
        cls,
        probes: Iterable[ProbeRecord],
        by_prompt: bool = False,
        laps_overlap: bool = False,
        others: Iterable[Probes] = (),
        reference: Pace | None = None,
    ) -> "RoundLatency":
        """Gathers the probes of one domain; every prompt must have seen every size and gamma.

        Args:
            probes: those with a draft length of 0 are of plain decoding, and time its steps.
            by_prompt: whether prompts are blocks even where several processes probed them.
            laps_overlap: whether launches of one part hide behind the work of another, so that only whole
                rounds have a time. What a head takes is then what rounds take beyond those of the smallest
                size.
            others: probes of other domains of the same run, a list of each.
            reference: the pace at which times are wanted, each of its two kept within what was met; None,
                with fewer than `LEAST_STRETCHES`, and where heads have no time: as they were.
        """
        every, of_others = list(probes), [list(other) for other in others]
        are_processes = not by_prompt and len({p.process for p in every}) > 1
        own_place = _places(every, are_processes)
        blocks = list(own_place)
        drafted = [p for p in every if p.draft_length]
        own = _Placed.of(every, own_place, are_processes, laps_overlap)
        of_all = [own, *(_Placed.among(o, own_place, are_processes, laps_overlap) for o in of_others)]
        sizes = np.array(sorted({p.vocab_size for p in drafted}))
        gammas = np.array(sorted({p.draft_length for p in drafted}))
        times_heads = not laps_overlap and not any(probe.laps_ms.get(DRAFT) for probe in drafted)
        paces = paces_of([*every, *chain.from_iterable(of_others)]) if times_heads else {}
        every_pace = np.array([met.times for met in paces.values()]).reshape(-1, 2)
        apart: dict[Stretch, Floats] = {}
        if len({stretch_of(probe) for probe in drafted} & paces.keys()) < LEAST_STRETCHES:
            reference = None
        elif reference is not None:
            times = np.where(np.isnan(reference.times), every_pace.mean(axis=0), reference.times)
            times = np.clip(times, every_pace.min(axis=0), every_pace.max(axis=0))
            reference = Pace.of(times)
            apart = {stretch: np.nan_to_num(met.apart(times)) for stretch, met in paces.items()}
        # A size that was probed with gamma = 1 only has no layer: nothing was chained.
        with_layer = {p.vocab_size for placed in of_all for p in placed.probes if p.laps_ms.get(LAYER)}
        chained = np.array(sorted(with_layer & set(sizes.tolist())) or sizes[:1])
        parts = {HEAD: _Samples.of(HEAD, sizes, of_all, apart), SELECT: _Samples.of(SELECT, sizes, of_all)}
        parts[LAYER] = _Samples.with_constant(LAYER, chained, of_all, apart)
        parts |= {EXTEND: _Samples.of(EXTEND, gammas, [own], apart), OTHER: _Samples.of(OTHER, gammas, [own])}
        parts[VERIFY] = _Samples.with_constant(VERIFY, gammas, of_all, apart)
        parts[_PLAIN] = _Samples.with_constant(VERIFY, np.zeros(1, int), of_all, apart)
        prefill = _Samples.of(PREFILL, np.zeros(1, int), [own])
        whole = None
        if laps_overlap:
            rounds = [(_block_of(p, are_processes), p) for p in drafted]
            whole = {int(gamma): _whole_samples(rounds, int(gamma), sizes, own_place) for gamma in gammas}
        prefill_ms = (prefill.total / prefill.count)[0]
        return cls(blocks, prefill_ms, sizes, gammas, parts, whole, times_heads, every_pace, reference)

    @property
    def num_blocks(self) -> int:
        """Blocks of time."""
        return len(self.blocks)

    def only(self, blocks: Sequence[int]) -> "RoundLatency":
        """The same of some blocks, by their places."""
        kept = list(blocks)
        parts = {name: samples.only(kept) for name, samples in self._by_part.items()}
        whole = self._whole and {gamma: samples.only(kept) for gamma, samples in self._whole.items()}
        names, prefill_ms = [self.blocks[i] for i in kept], self.prefill_ms[kept]
        return replace(self, blocks=names, prefill_ms=prefill_ms, _by_part=parts, _whole=whole)

    def head_ms(self, sizes: IntArray, weights: Floats, as_measured: bool = False) -> Floats:
        """LM head and selection of one token at each size `(resamples, len(sizes))`.

        Straight lines between the probed sizes, whose means are first made to rise with k, as the work
        does; a size below the smallest probed costs as much as that one.

        Args:
            sizes: where.
            weights: of the blocks `(resamples, blocks)`.
            as_measured: whether means are left as they are, rising or not.
        """
        means = self._by_part[HEAD].means(weights) + self._by_part[SELECT].means(weights)
        rising = means if as_measured else np.stack([isotonic_regression(row).x for row in means])
        return rising @ _interpolation(self.sizes, sizes)

    def layer_ms(self, sizes: IntArray, weights: Floats, as_measured: bool = False) -> Floats:
        """The layer of one chained step among heads of each size `(resamples, len(sizes))`, as `head_ms`.

        Sizes are weighted by their samples: a size that was probed with short drafts has few.
        """
        return _rising(self._by_part[LAYER], sizes, weights, as_measured)

    def fixed_ms(self, draft_length: int, weights: Floats) -> Floats:
        """The part of a round that does not depend on the vocabulary `(resamples,)`."""
        return np.sum([self._mean(part, draft_length, weights) for part in PER_ROUND], axis=0)

    def round_ms(
        self, draft_length: int, sizes: IntArray, weights: Floats, as_measured: bool = False
    ) -> Floats:
        """A whole round with each size `(resamples, len(sizes))`: the sum of its parts, if they add up.

        Arguments as of `head_ms`.
        """
        if self._whole is not None and self._whole[draft_length].count.any():
            found = _rising(samples := self._whole[draft_length], sizes, weights, as_measured)
            if samples.levels[-1] == self.sizes[-1]:
                # The whole head maps no ids, a launch less, so that its rounds may be the shorter ones.
                found[:, sizes == self.sizes[-1]] = samples.means(weights)[:, -1:]
            return found
        head, layer = (part(sizes, weights, as_measured) for part in (self.head_ms, self.layer_ms))
        fixed = self.fixed_ms(draft_length, weights)[:, None]
        return draft_length * head + (draft_length - 1) * layer + fixed

    def once_ms(self, draft_length: int, weights: Floats) -> Floats:
        """Time of an answer outside its rounds `(resamples,)`: the draft's prefill, less one extension.

        The last round of an answer has no extension.
        """
        prefill = weights @ self.prefill_ms / np.maximum(weights.sum(1), 1)
        return prefill - self._mean(EXTEND, draft_length, weights)

    def plain_ms(self, weights: Floats) -> Floats | None:
        """A step of plain decoding `(resamples,)`; None where none was timed."""
        samples = self._by_part[_PLAIN]
        return samples.means(weights)[:, 0] if samples.count.any() else None

    def _mean(self, part: str, draft_length: int, weights: Floats) -> Floats:
        samples = self._by_part[part]
        row = int(np.searchsorted(samples.levels, draft_length)) if len(samples.levels) > 1 else 0
        return samples.means(weights)[:, row]


def _rising(samples: _Samples, sizes: IntArray, weights: Floats, as_measured: bool) -> Floats:
    """Means at each size `(resamples, len(sizes))`, made to rise with k by the weight of their samples."""
    means, counts = samples.means(weights), np.maximum(samples.count.sum(1), 1)
    if not as_measured:
        means = np.stack([isotonic_regression(row, weights=counts).x for row in means])
    return means @ _interpolation(samples.levels, sizes)


def _whole_samples(
    probes: Sequence[tuple[str, ProbeRecord]], draft_length: int, sizes: IntArray, place: Mapping[str, int]
) -> _Samples:
    """Whole rounds of one draft length by size, of the sizes that were probed with it."""
    total, count = np.zeros((len(sizes), len(place))), np.zeros((len(sizes), len(place)))
    for block, probe in probes:
        if probe.draft_length == draft_length and (rounds := whole_rounds_ms(probe)):
            at = int(np.searchsorted(sizes, probe.vocab_size)), place[block]
            total[at] += sum(rounds)
            count[at] += len(rounds)
    there = count.any(axis=1)
    return _Samples(sizes[there], total[there], count[there])


def _places(probes: Probes, are_processes: bool) -> dict[str, int]:
    """Place of every block that rounds were probed in, by its name, in the order of time."""
    first: dict[str, tuple[int, int]] = {}
    for probe in probes:
        if probe.draft_length:
            block, at = _block_of(probe, are_processes), (probe.process, probe.order)
            first[block] = min(first.get(block, at), at)
    return {block: place for place, block in enumerate(sorted(first, key=lambda name: (first[name], name)))}


def _block_of(probe: ProbeRecord, are_processes: bool) -> str:
    return str(probe.process) if are_processes else probe.prompt_id


def _interpolation(known: IntArray, wanted: IntArray) -> Floats:
    """Weights `(len(known), len(wanted))` of linear interpolation, constant outside."""
    columns = [np.interp(wanted, known, unit) for unit in np.eye(len(known))]
    return np.stack(columns)
