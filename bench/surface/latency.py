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
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import isotonic_regression

from bench.records import ProbeRecord
from bench.surface.chains import joined_rounds, whole_rounds_ms, with_parts
from bench.variant import DRAFT, EXTEND, HEAD, LAYER, OTHER, PREFILL, SELECT, VERIFY
from bench.vocab.draft_vocab import Floats, IntArray

# Parts that come once a round, as functions of the draft length.
PER_ROUND = (EXTEND, VERIFY, OTHER)

_PLAIN = "plain"

Probes = Sequence[ProbeRecord]


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
        own: those of the domain that is asked about among these, from which they differ by a constant; None
            where a domain makes no difference.
    """

    levels: IntArray
    total: Floats
    count: Floats
    own: "_Samples | None" = None

    def only(self, blocks: list[int]) -> "_Samples":
        """Those of some blocks."""
        own = self.own and self.own.only(blocks)
        return _Samples(self.levels, self.total[:, blocks], self.count[:, blocks], own)

    @classmethod
    def of(cls, part: str, levels: IntArray, of_domains: Sequence["_Placed"]) -> "_Samples":
        """Of a part at levels of k or gamma; a prefill is of no level but 0."""
        row_of = {int(level): row for row, level in enumerate(levels)}
        total = np.zeros((len(levels), of_domains[0].num_blocks))
        count = np.zeros_like(total)
        for placed in of_domains:
            for probe, place in placed.each():
                level = probe.draft_length if part in PER_ROUND else probe.vocab_size
                row = row_of.get(0 if part == PREFILL else level)
                samples = probe.laps_ms.get(part, [])
                if samples and row is not None:
                    total[row, place] += sum(samples)
                    count[row, place] += len(samples)
        return cls(levels, total, count)

    @classmethod
    def with_constant(cls, part: str, levels: IntArray, of_domains: Sequence["_Placed"]) -> "_Samples":
        """As `of`; the first of the domains differs from all by a constant."""
        return replace(cls.of(part, levels, of_domains), own=cls.of(part, levels, of_domains[:1]))

    def means(self, weights: Floats) -> Floats:
        """Mean by resample and level `(resamples, levels)`, for weights `(resamples, blocks)`.

        A resample without a sample of some level takes the mean of all blocks; a level without any sample
        takes no time. Answers that end in their first round have such levels.
        """
        count = weights @ self.count.T
        overall = self.total.sum(1) / np.maximum(self.count.sum(1), 1)
        found = np.where(count > 0, (weights @ self.total.T) / np.maximum(count, 1), overall)
        if self.own is None:
            return found
        of_own = np.where(self.own.count.sum(1) > 0, weights @ self.own.count.T, 0)
        beyond = (of_own * (self.own.means(weights) - found)).sum(1) / np.maximum(of_own.sum(1), 1)
        return np.where(self.count.sum(1) > 0, found + beyond[:, None], found)


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
    """

    blocks: list[str]
    prefill_ms: Floats
    sizes: IntArray
    draft_lengths: IntArray
    _by_part: Mapping[str, _Samples]
    _whole: Mapping[int, _Samples] | None = None
    times_heads: bool = True

    @classmethod
    def from_probes(
        cls,
        probes: Iterable[ProbeRecord],
        by_prompt: bool = False,
        laps_overlap: bool = False,
        others: Iterable[Probes] = (),
    ) -> "RoundLatency":
        """Gathers the probes of one domain; every prompt must have seen every size and gamma.

        Args:
            probes: those with a draft length of 0 are of plain decoding, and time its steps.
            by_prompt: whether prompts are blocks even where several processes probed them.
            laps_overlap: whether launches of one part hide behind the work of another, so that only whole
                rounds have a time. What a head takes is then what rounds take beyond those of the smallest
                size.
            others: probes of other domains of the same run, a list of each.
        """
        every = list(probes)
        are_processes = not by_prompt and len({p.process for p in every}) > 1
        own_place = _places(every, are_processes)
        blocks = list(own_place)
        drafted = [p for p in every if p.draft_length]
        own = _Placed.of(every, own_place, are_processes, laps_overlap)
        of_all = [own, *(_Placed.among(list(o), own_place, are_processes, laps_overlap) for o in others)]
        sizes = np.array(sorted({p.vocab_size for p in drafted}))
        gammas = np.array(sorted({p.draft_length for p in drafted}))
        # A size that was probed with gamma = 1 only has no layer: nothing was chained.
        with_layer = {p.vocab_size for placed in of_all for p in placed.probes if p.laps_ms.get(LAYER)}
        chained = np.array(sorted(with_layer & set(sizes.tolist())) or sizes[:1])
        parts = {part: _Samples.of(part, sizes, of_all) for part in (HEAD, SELECT)}
        parts[LAYER] = _Samples.with_constant(LAYER, chained, of_all)
        parts |= {part: _Samples.of(part, gammas, [own]) for part in (EXTEND, OTHER)}
        parts[VERIFY] = _Samples.with_constant(VERIFY, gammas, of_all)
        parts[_PLAIN] = _Samples.of(VERIFY, np.zeros(1, int), [own])
        prefill = _Samples.of(PREFILL, np.zeros(1, int), [own])
        whole = None
        if laps_overlap:
            rounds = [(_block_of(p, are_processes), p) for p in drafted]
            whole = {int(gamma): _whole_samples(rounds, int(gamma), sizes, own_place) for gamma in gammas}
        times_heads = not laps_overlap and not any(probe.laps_ms.get(DRAFT) for probe in drafted)
        return cls(blocks, (prefill.total / prefill.count)[0], sizes, gammas, parts, whole, times_heads)

    @property
    def num_blocks(self) -> int:
        """Blocks of time."""
        return len(self.blocks)

    def only(self, blocks: Sequence[int]) -> "RoundLatency":
        """The same of some blocks, by their places."""
        kept = list(blocks)
        parts = {name: samples.only(kept) for name, samples in self._by_part.items()}
        whole = self._whole and {gamma: samples.only(kept) for gamma, samples in self._whole.items()}
        names = [self.blocks[i] for i in kept]
        prefill_ms = self.prefill_ms[kept]
        return RoundLatency(names, prefill_ms, self.sizes, self.draft_lengths, parts, whole, self.times_heads)

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
