from dataclasses import dataclass

import pytest

from bench.decoding.torch_engine import TorchEngine
from bench.device import ScriptedDevice
from bench.measure.session import DECODE, Session
from bench.measure.workload import PROBE, EncodedPrompt, Probes, Step
from bench.records import DecodeRecord
from bench.variant import Variant
from tests.conftest import VOCAB_SIZE, make_draft, make_target

TARGET = make_target(eos=96)
DRAFT = make_draft(TARGET)


@dataclass(frozen=True)
class Decoding:
    device: ScriptedDevice
    session: Session

    def measure(self, *steps):
        prompt = EncodedPrompt("p", [5, 9, 33, 7])
        return list(self.session.measure("code", prompt, steps, rounds=2))


@pytest.fixture
def decoding():
    """Every mark is made 1 ms after the one before it, on a device with four of them."""
    device = ScriptedDevice(num_marks=4, mark_ms=1.0)
    return Decoding(device, Session(TorchEngine(device, TARGET, DRAFT, 24, seed=0)))


def test_a_decode_of_more_marks_than_there_were_is_timed_to_its_end(decoding):
    (record,) = decoding.measure(Step(DECODE, Variant(VOCAB_SIZE, 3)))
    assert isinstance(record, DecodeRecord)
    laps = record.laps_ms
    rounds = len(record.accepted)
    assert len(laps["lm_head"]) == 3 * rounds and len(laps["layer"]) == 2 * rounds
    assert all(ms == 1.0 for samples in laps.values() for ms in samples)
    # The first mark begins the first lap.
    num_marks = sum(map(len, laps.values()))
    assert num_marks == rounds * (3 * 3 + 2) > 4  # no extension after the last round, but the prefill's lap
    assert record.decode_ms == num_marks


@pytest.mark.parametrize(
    ("kind", "gamma"), [(DECODE, 0), (DECODE, 1), (DECODE, 3), (DECODE, 6), (PROBE, 1), (PROBE, 6)]
)
def test_room_for_all_marks_is_made_before_a_timing(decoding, gamma, kind, monkeypatch):
    grown = []
    make = decoding.device.marks._make
    monkeypatch.setattr(decoding.device.marks, "_make", lambda count: grown.append(count) or make(count))
    (record,) = decoding.measure(Step(kind, Variant(VOCAB_SIZE, gamma)))
    (prepared,) = grown
    num_marks = 1 + sum(map(len, record.laps_ms.values()))
    assert num_marks <= 4 + prepared


def test_a_warm_up_meets_every_shape_of_what_is_measured():
    device = ScriptedDevice()
    engine = TorchEngine(device, TARGET, DRAFT, 24, seed=0)
    loaded, decoded, ran = set(), set(), set()

    class Seen:
        prepare = engine.prepare

        def load(self, variant, prepared):
            loaded.add((variant.vocab_size, variant.draft_length))
            engine.load(variant, prepared)

        def decode(self, prepared, variant, rounds):
            decoded.add((variant.vocab_size, variant.draft_length))
            return engine.decode(prepared, variant, rounds)

        def parts(self, prepared, sizes, gammas):
            found = engine.parts(prepared, sizes, gammas)
            return {key: lambda key=key: ran.add((key.part, key.num_tokens)) or found[key]() for key in found}

    sizes, gammas = [10, 20, 40, VOCAB_SIZE], [1, 3]
    Session(Seen()).warm_up(EncodedPrompt("p", [5, 9, 33, 7]), Probes(sizes, gammas, 2), 2)
    assert loaded == {(size, gamma) for size in sizes for gamma in gammas}
    assert {size for size, _ in decoded} == set(sizes) and {gamma for _, gamma in decoded} == {0, *gammas}
    assert {("extend", num) for num in (1, 2, 3, 4)} <= ran


def test_heads_are_built_once_and_not_for_every_prompt(monkeypatch):
    built, build = [], type(DRAFT).head

    def counted(self, vocab):
        built.append(len(vocab))
        return build(self, vocab)

    monkeypatch.setattr(type(DRAFT), "head", counted)
    engine = TorchEngine(ScriptedDevice(), TARGET, DRAFT, 8, seed=0)
    orders = [DRAFT.vocab.target_ids, DRAFT.vocab.target_ids[::-1].copy()]
    for _ in range(3):
        # Domains take turns, each with its own order.
        for order in orders:
            engine.use_order(order)
            prepared = engine.prepare([5, 9, 33, 7])
            for size in (10, 40, VOCAB_SIZE):
                engine.decode(prepared, Variant(size, 2))
            engine.parts(prepared, [10, 40], [2])
    # The whole head has no order.
    assert sorted(built) == [10, 10, 40, 40, VOCAB_SIZE]
