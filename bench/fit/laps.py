"""Records of a run to series of latencies, as real rounds took them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from bench.cost.flops import DraftShape
from bench.fit.errors import FitError
from bench.fit.series import (
    DRAFT_STEP,
    LM_HEAD,
    VERIFY,
    Floats,
    LatencySeries,
    draft_work,
    verify_work,
)
from bench.records import DecodeRecord

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def series_of_records(
    records: Iterable[DecodeRecord], dtype: str, draft: DraftShape, target: DraftShape | None = None
) -> dict[str, LatencySeries]:
    """Latencies of LM head, chained draft step and verification, by component.

    A chained step is layer, head and selection of one depth, from the second of a round on; the first is
    part of the round's extension. Components that a run did not time are left out.

    Args:
        records: of the run; domains are pooled, as a step does not depend on its text.
        dtype: of weights and arithmetic.
        draft: its shape.
        target: its shape; without it verification is left out.

    Raises:
        FitError: the records hold no time of a draft.
    """
    kept = list(records)
    laps: dict[str, dict[int, list[Floats]]] = {name: defaultdict(list) for name in _READ}
    for record in kept:
        for component, read in _READ.items():
            size, samples = read(record)
            if len(samples):
                laps[component][size].append(samples)
    if not laps[LM_HEAD]:
        raise FitError("the run timed no draft, so that there is nothing to fit; measure it first")
    context = int(np.mean([r.num_prompt_tokens + len(r.token_ids) / 2 for r in kept]))
    width = DTYPE_BYTES[dtype]
    found = {}
    for component, by_size in laps.items():
        sizes = np.array(sorted(by_size), dtype=np.int64)
        samples_ms = [np.concatenate(by_size[int(size)]) for size in sizes]
        if component != VERIFY and len(sizes):
            work = draft_work(draft, component, sizes, context, dtype_bytes=width)
        elif target is not None and len(sizes):
            work = verify_work(target, sizes, context, dtype_bytes=width)
        else:
            continue
        found[component] = LatencySeries(component, work, samples_ms)
    return found


def _head(record: DecodeRecord) -> tuple[int, Floats]:
    return record.vocab_size, _lap(record.laps_ms, "lm_head")


def _step(record: DecodeRecord) -> tuple[int, Floats]:
    depth, laps = record.draft_length, record.laps_ms
    layers = _lap(laps, "layer")
    if depth < 2 or not len(layers):
        return record.vocab_size, layers[:0]
    # A round has one head and one selection per drafted token, and a layer for all but the first.
    layers = layers.reshape(-1, depth - 1)
    head, select = (_lap(laps, name).reshape(-1, depth)[:, 1:] for name in ("lm_head", "select"))
    return record.vocab_size, (layers + head + select).ravel()


def _verify(record: DecodeRecord) -> tuple[int, Floats]:
    return record.draft_length + 1, _lap(record.laps_ms, "verify")


def _lap(laps_ms: Mapping[str, list[float]], name: str) -> Floats:
    return np.array(laps_ms.get(name, []), dtype=np.float64)


_READ = {LM_HEAD: _head, DRAFT_STEP: _step, VERIFY: _verify}
