import numpy as np
import pytest

from bench.cost.shape import DraftShape
from bench.gpu_tables.products import Basis
from bench.surface.lengths import Lengths
from bench.surface.rounds import Errors, Host, Times, choose
from tests.gpu_tables.synthetic import EAGLE3

DRAFT = DraftShape.from_config(EAGLE3, "here")
EXACT = Errors(0.0, 0.0, 0.0)

# Two sizes, gamma of 1 and 2.
LENGTHS = Lengths(np.array([256, 65536]), (1, 2), np.array([[[1.4, 1.5], [1.6, 1.75]]]), "here", False)
TIMES = Times(
    head=np.array([0.1, 0.5]), step=0.2, first=np.array([0.3, 0.4]), verify=np.array([4, 5.0]), plain=4
)


def chosen(times=TIMES, lengths=LENGTHS, errors=EXACT, host=Host()):  # noqa: B008
    return choose(times, lengths, errors, host, DRAFT, Basis.EXACT)


def test_rounds_by_hand():
    rounds = TIMES.rounds(np.array([1.0, 2.0]), Host())
    assert rounds == pytest.approx(np.array([[4.4, 4.8], [5.8, 6.6]]))
    # A round's own work of the host, and once more for every chained step.
    rounds = TIMES.rounds(np.array([1.0, 2.0]), Host(round_ms=1, step_ms=0.5))
    assert rounds == pytest.approx(np.array([[5.4, 5.8], [7.3, 8.1]]))


def test_the_fastest_by_hand():
    found = chosen()
    # 1.4 x 4 / 4.4 of the small head with gamma = 1; the whole one is best there, too: 1.5 x 4 / 4.8.
    assert (found.vocab_size, found.draft_length, found.full_draft_length) == (256, 1, 1)
    assert found.vs_plain.value == pytest.approx(5.6 / 4.4)
    assert found.vs_full.value == pytest.approx((1.4 / 4.4) / (1.5 / 4.8))
    assert (found.vs_full.ci_low, found.vs_full.ci_high) == (found.vs_full.value, found.vs_full.value)
    assert found.size_interval == (256, 256) and found.trims
    assert found.curve == pytest.approx([5.6 / 4.4, 6 / 4.8])
    assert (found.step_ms, found.full_step_ms) == pytest.approx((0.3, 0.7))


def test_the_host_s_work_leaves_less_to_gain():
    found = chosen(host=Host(pass_ms=1, round_ms=1))
    assert found.vs_plain.value == pytest.approx(1.4 * 5 / 5.4)
    assert found.vs_full.value == pytest.approx((1.4 / 5.4) / (1.5 / 5.8))
    # The larger one is the faster then.
    busy = chosen(host=Host(pass_ms=1, round_ms=4))
    assert busy.vocab_size == 65536 and busy.vs_full.value == 1 and not busy.trims


def test_errors_of_the_table_widen_intervals():
    narrow, wide = (chosen(errors=Errors(e, e, e)) for e in (0.02, 0.1))
    for found in (narrow, wide):
        assert found.vs_plain.ci_low < found.vs_plain.value < found.vs_plain.ci_high
    assert wide.vs_full.ci_high - wide.vs_full.ci_low > narrow.vs_full.ci_high - narrow.vs_full.ci_low


def test_flops_promise_what_a_head_of_equal_latency_does_not_keep():
    times = Times(np.array([1.0, 1.0]), 0.0, np.array([0.0]), np.array([1.0]), 1.0)
    lengths = Lengths(LENGTHS.sizes, (1,), np.array([[[1.4, 1.5]]]), "here", False)
    found = chosen(times, lengths)
    share = DRAFT.total_flops(256) / DRAFT.total_flops(65536)
    assert 1.4 / (1 + share) > 1.5 / 2
    assert (found.vocab_size, found.flops_size) == (65536, 256)
    assert found.flops_loss == pytest.approx(1 - 1.4 / 1.5)
