"""A whole campaign against an engine that is a script: what is asked of any engine."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from bench.acceptance import Intervals
from bench.config import AdviceRule, MeasureConfig
from bench.decoding.engine import Decoded, Engine, Replayed
from bench.errors import ConfigError, DomainError
from bench.measure.campaign import Campaign
from bench.measure.workload import AnsweredPrompt, EncodedPrompt, Workload
from bench.records import BaselineRecord, DecodeRecord, FailureRecord, PlanRecord, ProbeRecord, ReplayRecord
from bench.records.store import Done
from bench.variant import EXTEND, HEAD, LAYER, OTHER, PREFILL, SELECT, VERIFY, Variant

FULL, ANSWER = 64, list(range(10, 19))
MS = {PREFILL: 4.0, LAYER: 2.0, SELECT: 0.25, VERIFY: 22.0, OTHER: 0.5, EXTEND: 3.0}


@dataclass
class ScriptedEngine:
    """Every answer is the same; a draft of at least 10 tokens is always right, a smaller one never."""

    name: str = "scripted"
    full_size: int = FULL
    can_probe: bool = True
    can_replay: bool = True
    laps_overlap: bool = False
    asked: list = field(default_factory=list)
    starved: set = field(default_factory=set)

    def use_order(self, order):
        self.asked.append(("order", tuple(order)))

    def reseed(self, *context):
        self.asked.append(("seed", *context))

    def prepare(self, prompt_ids):
        return tuple(prompt_ids)

    def load(self, variant, prepared=()):
        if variant in self.starved:
            raise RuntimeError("out of memory")

    def decode(self, prepared, variant, max_rounds=None, with_laps=True):
        self.load(variant)
        self.asked.append(variant)
        num_left, accepted, gamma = len(ANSWER) - 1, [], variant.draft_length
        while num_left > 0 and len(accepted) != max_rounds:
            accepted.append(min(gamma, num_left) if variant.vocab_size >= 10 else 0)
            num_left -= accepted[-1] + 1
        if variant.is_plain:
            steps = min(max_rounds or 8, 8)
            return Decoded(ANSWER[: steps + 1], [], steps * 22.0, steps * 22.0, {VERIFY: [22.0] * steps})
        rounds, head_ms = len(accepted), variant.vocab_size / 10
        laps = {part: [MS[part]] * rounds for part in (VERIFY, OTHER)}
        laps |= {HEAD: [head_ms] * rounds * gamma, SELECT: [MS[SELECT]] * rounds * gamma}
        laps |= {LAYER: [MS[LAYER]] * rounds * (gamma - 1), EXTEND: [MS[EXTEND]] * (rounds - 1)}
        laps[PREFILL] = [MS[PREFILL]]
        took_ms = sum(map(sum, laps.values()))
        return Decoded(ANSWER, accepted, took_ms, took_ms, laps if with_laps else {})

    def replay(self, prepared, orders, sizes, longest_draft, answer=None):
        self.asked.append(("replay", prepared, answer))
        answer = answer or ANSWER
        shape = (len(answer) - 1, longest_draft)
        right = Intervals(np.full(shape, 10), np.full(shape, FULL + 1))
        return Replayed(answer, dict.fromkeys(orders, right), 1.0)

    def parts(self, prepared, sizes, draft_lengths):
        return {}

    def reference(self, prompt_ids, num_tokens):
        assert num_tokens == len(ANSWER)

    def synchronize(self):
        pass


MEASURE = MeasureConfig(draft_lengths=[1, 2], num_prompts=3, max_new_tokens=9, bootstrap_samples=100)
ORDER = np.arange(FULL)
PROMPTS = [EncodedPrompt(f"p{i}", [5, i]) for i in range(3)]
ANSWERED = AnsweredPrompt("known", [5, 7], [1, 2, 3, 4])
ORDERS = {"code": ORDER, "pooled": ORDER[::-1].copy()}
WORKLOAD = Workload("code", PROMPTS, "code", ORDERS, 20, answered=[ANSWERED])
SIZES = [8, FULL]


def measured(engine: Engine, done=(), rule=AdviceRule.smallest):
    campaign = Campaign(engine, SIZES, MEASURE, rule, multiple=1, done=Done(done))
    return [*campaign.run([WORKLOAD]), *campaign.compare_with_reference(WORKLOAD)]


def test_every_second_process_measures_in_the_reverse_order():
    def order(**options):
        campaign = Campaign(ScriptedEngine(), SIZES, MEASURE, AdviceRule.smallest, 1, Done(), **options)
        found: dict[tuple[str, bool], list[tuple[str, Variant]]] = {}
        for r in campaign.run([WORKLOAD]):
            if isinstance(r, ProbeRecord | DecodeRecord):
                is_probe = isinstance(r, ProbeRecord) and not r.is_check
                found.setdefault((r.prompt_id, is_probe), []).append((r.kind, r.variant))
        return found

    forwards, backwards = order(), order(is_reversed=True)
    assert len(forwards) == 6
    assert backwards == {place: steps[::-1] for place, steps in forwards.items()}


def test_the_plan_follows_from_what_the_engine_says():
    records = measured(engine := ScriptedEngine())
    (plan,) = [r for r in records if isinstance(r, PlanRecord)]
    roles = {item.variant: item.roles for item in plan.planned}
    # 10 tokens are the fewest with which the draft is right, and two at a time halve the passes.
    assert roles == {
        Variant(FULL, 0): ["plain"],
        Variant(FULL, 2): ["full"],
        Variant(10, 2): ["optimum"],
        Variant(20, 2): ["paper"],
    }
    counts = Counter(type(record) for record in records)
    # Two sizes and two draft lengths twice each, and plain decoding four times; two of each planned variant.
    assert counts == {
        ReplayRecord: 4 * 2,
        ProbeRecord: 3 * (4 + 4) + 3 * 2 * len(roles),
        PlanRecord: 1,
        DecodeRecord: 3 * len(roles),
        BaselineRecord: 1,
    }
    kinds = [type(record) for record in records if isinstance(record, PlanRecord | DecodeRecord)]
    assert kinds.index(PlanRecord) == 0
    checks = {(r.prompt_id, r.variant) for r in records if isinstance(r, ProbeRecord) and r.is_check}
    assert checks == {(p.prompt_id, variant) for p in PROMPTS for variant in roles}
    decodes = {(r.prompt_id, r.variant): r for r in records if isinstance(r, DecodeRecord)}
    assert decodes["p0", Variant(10, 2)].accepted == [2, 2, 2]
    assert decodes["p0", Variant(10, 2)].decode_ms == 4 + 3 * (2 * 1.25 + 2 + 22 + 0.5) + 2 * 3
    assert engine.asked[0] == ("order", tuple(ORDER))


def test_further_prompts_are_probed_and_not_decoded():
    further = AnsweredPrompt("further", [5, 8], ANSWER)
    workload = replace(WORKLOAD, answered=[further, ANSWERED], probed=[further])
    records = measured_together(engine := ScriptedEngine(), [workload])
    of_further = [r for r in records if getattr(r, "prompt_id", None) == "further"]
    assert Counter(type(r) for r in of_further) == {ReplayRecord: 2, ProbeRecord: 4 + 4}
    assert not any(r.is_check for r in of_further if isinstance(r, ProbeRecord))
    # Both are replayed once, over the answers that are known.
    known = [item[2] for item in engine.asked if isinstance(item, tuple) and item[0] == "replay" and item[2]]
    assert known == [further.answer_ids, ANSWERED.answer_ids]
    (stage, _) = Campaign(ScriptedEngine(), SIZES, MEASURE).stages([workload])
    assert stage.num_records == sum(1 for r in records if isinstance(r, ReplayRecord)) + sum(
        1 for r in records if isinstance(r, ProbeRecord) and not r.is_check
    )


def test_an_interrupted_campaign_measures_the_rest_and_the_same():
    records = measured(ScriptedEngine())
    left = [record for index, record in enumerate(records) if index % 3]
    again = measured(ScriptedEngine(), left)
    assert Counter(r.identity for r in [*left, *again]) == Counter(r.identity for r in records)
    assert measured(ScriptedEngine(), records) == []


def several():
    """Three domains, of three prompts, three and one."""
    of_other = [EncodedPrompt(f"q{i}", [6, i]) for i in range(3)]
    return [
        WORKLOAD,
        replace(WORKLOAD, domain="chat", source="pooled", prompts=of_other),
        replace(WORKLOAD, domain="few", prompts=[EncodedPrompt("r", [7, 0])], answered=[]),
    ]


def measured_together(engine, workloads, done=()):
    return list(Campaign(engine, SIZES, MEASURE, AdviceRule.smallest, 1, Done(done)).run(workloads))


def test_domains_take_turns_and_every_second_turn_is_reversed():
    records = measured_together(engine := ScriptedEngine(), several())
    stages = [[], []]
    for record in records:
        if isinstance(record, ProbeRecord | DecodeRecord):
            place = (record.domain, record.prompt_id)
            stage = stages[isinstance(record, DecodeRecord) or record.is_check]
            stage += [place] if stage[-1:] != [place] else []
    turns = [
        ("code", "p0"), ("chat", "q0"),
        ("chat", "q1"), ("code", "p1"),
        ("code", "p2"), ("chat", "q2"), ("few", "r"),
    ]  # fmt: skip
    assert stages == [turns, turns]
    kinds = [type(record) for record in records]
    plans = [index for index, kind in enumerate(kinds) if kind is PlanRecord]
    assert plans == list(range(plans[0], plans[0] + 3))
    assert DecodeRecord not in kinds[: plans[0]] and ReplayRecord not in kinds[plans[0] :]
    orders = [item[1] for item in engine.asked if isinstance(item, tuple) and item[0] == "order"]
    assert orders[:4] == [tuple(ORDERS[w.source]) for w in several()] + [tuple(ORDERS["code"])]


def test_a_domain_among_others_is_measured_as_it_is_alone():
    def of_code(records):
        return [r for r in records if not isinstance(r, BaselineRecord) and r.domain == "code"]

    alone, together = (
        of_code(measured(ScriptedEngine())),
        of_code(measured_together(ScriptedEngine(), several())),
    )
    assert [r.identity for r in together] == [r.identity for r in alone]


def test_interrupted_turns_go_on_where_they_stopped():
    records = measured_together(ScriptedEngine(), several())
    for place in (1, len(records) // 3, 2 * len(records) // 3, len(records) - 1):
        again = measured_together(ScriptedEngine(), several(), records[:place])
        assert [r.identity for r in again] == [r.identity for r in records[place:]]


def test_a_domain_that_cannot_be_measured_does_not_stop_the_others():
    class Mute(ScriptedEngine):
        def replay(self, prepared, orders, sizes, longest_draft, answer=None):
            if prepared[0] == 7:
                return super().replay(prepared, orders, sizes, longest_draft, ANSWER[:1])
            return super().replay(prepared, orders, sizes, longest_draft, answer)

    records = measured_together(Mute(), several())
    (failure,) = [r for r in records if isinstance(r, FailureRecord)]
    assert failure.case == ["plan", "few"] and "ends every held-out answer with its first" in failure.message
    decoded = {r.domain for r in records if isinstance(r, DecodeRecord)}
    assert decoded == {"code", "chat"}
    with pytest.raises(DomainError, match="domain few: the target ends every held-out answer"):
        measured_together(Mute(), several()[2:])


def test_a_variant_without_memory_fails_and_the_others_are_measured():
    records = measured(ScriptedEngine(starved={Variant(20, 2)}))
    failures = [r for r in records if isinstance(r, FailureRecord)]
    expected = {(kind, "code", p.prompt_id, 20, 2) for p in PROMPTS for kind in ("decode", "check")}
    assert {tuple(f.case) for f in failures} == expected
    decoded = {r.variant for r in records if isinstance(r, DecodeRecord)}
    assert Variant(20, 2) not in decoded and Variant(10, 2) in decoded


@pytest.mark.parametrize("lacks", ["can_probe", "can_replay"])
def test_an_engine_that_a_plan_cannot_be_made_with_is_refused(lacks):
    with pytest.raises(ConfigError, match="the scripted engine cannot time .* or replay"):
        Campaign(ScriptedEngine(**{lacks: False}), SIZES, MEASURE)


def test_a_prompt_is_reseeded_as_its_replay_was():
    measured(engine := ScriptedEngine())
    seeds = Counter(item for item in engine.asked if isinstance(item, tuple) and item[0] == "seed")
    # Once for the replay, once for the probes and once for the decodes.
    assert seeds["seed", "code", "p0", "replay"] == 3


def test_a_known_answer_is_replayed_and_not_decoded():
    records = measured(engine := ScriptedEngine())
    assert ("replay", (5, 7), [1, 2, 3, 4]) in engine.asked and ("replay", (5, 0), None) in engine.asked
    assert {r.prompt_id for r in records if isinstance(r, ProbeRecord | DecodeRecord)} == {"p0", "p1", "p2"}
    known = [r for r in records if isinstance(r, ReplayRecord) and r.prompt_id == "known"]
    assert [r.token_ids for r in known] == [[1, 2, 3, 4]] * 2
