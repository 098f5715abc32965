from bench.records import (
    CoverageRecord,
    DecodeRecord,
    EndRecord,
    FailureRecord,
    IsolatedRecord,
    ProbeRecord,
    SessionRecord,
    SteadyRecord,
)
from bench.records.store import Done


def probe(order, is_pilot=False):
    return ProbeRecord("code", "p", 1024, 3, is_pilot, order, {"verify": [1.0]})


def decode(order):
    return DecodeRecord("code", "p", 1024, 3, order, 5, [1, 2], [1], 1.0, 1.0, {})


def test_a_probe_of_the_pilot_is_another_case_than_one_of_the_proof():
    assert probe(1).identity == ("probe", "code", "p", 1024, 3)
    assert probe(1, is_pilot=True).identity == ("pilot", "code", "p", 1024, 3)
    assert decode(1).identity == ("decode", "code", "p", 1024, 3)
    assert IsolatedRecord("lm_head", 512, None, "cold", [1.0], [1.0], 1, "precise", 0.01).identity == (
        "isolated", "lm_head", 512, None, "cold", "eager",
    )  # fmt: skip


def test_a_run_has_one_coverage():
    assert CoverageRecord("curve.csv", [1], [0.5]).identity == ("coverage",)


def test_two_windows_of_a_variant_are_two_cases():
    assert SteadyRecord("code", 1024, 3, 10, 0.0, 1.0).identity == ("steady", "code", 1024, 3, 0)
    assert SteadyRecord("code", 1024, 3, 10, 5.0, 6.0, 1).identity == ("steady", "code", 1024, 3, 1)


def test_what_is_of_no_case():
    assert SessionRecord("now", "host", 1).identity is None
    assert FailureRecord(["decode"], "MemoryError", "none left").identity is None
    assert EndRecord("now").identity is None


def test_each_record_is_handed_out_once_in_the_order_of_measurement():
    done = Done([probe(4), decode(7), probe(9), SessionRecord("now", "host", 1)])
    assert (done.num_records, done.last_order) == (3, 9)
    case = probe(4).identity
    assert done.has(case)
    assert [done.take(case), done.take(case), done.take(case)] == [probe(4), probe(9), None]
    assert not done.has(case)
    assert done.take(("decode", "code", "p", 1024, 3)) == decode(7)
