"""Decoding in rounds that the host can replay without knowing their lengths, so that they can be captured.

A round is two calls: the draft's chain, which first reads what the round before verified, and the
verification, which also updates counts and lengths. Tokens, counts and lengths stay on the device, and the
host reads one small tensor a round. A step of plain decoding is a verification without drafted tokens. The
answers equal those of `bench.decoding.decoder`; sampling uses the same random numbers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.decoding.decoder import Answer, Prefill
from bench.decoding.rounds import Timeline
from bench.decoding.rules import Draws, Proposal, Rule
from bench.models.draft import CapturableDraft, Draft, DraftHead
from bench.models.target import Target
from bench.variant import DRAFT, OTHER, PREFILL, VERIFY

# Makes a call repeatable without its Python code, for example as a CUDA graph.
Capture = Callable[[Callable[[], object]], Callable[[], object]]

# Prompts of about the same length share their captured calls; attention may read the whole room.
_ROOM = 256


def needed_room(num_prompt_tokens: int, max_new_tokens: int, draft_length: int) -> int:
    """Positions that decoding writes at most, rounded up to what is captured once for many prompts.

    Args:
        num_prompt_tokens: of the prompt.
        max_new_tokens: longest answer.
        draft_length: gamma. What was drafted or padded may be written beyond the answer's end.
    """
    return -(-(num_prompt_tokens + max_new_tokens + 2 * draft_length + 1) // _ROOM) * _ROOM


def capture_obstacle(target: Target, draft: Draft) -> str | None:
    """Why rounds of a pair cannot be captured; None where they can."""
    if not target.has_static_cache:
        return f"a target of type {target.config.model_type} runs through transformers"
    if not isinstance(draft, CapturableDraft):
        return f"{draft.kind.label} has no cache of fixed room"
    return draft.obstacle


@dataclass
class _Round:
    """What one round leaves for the next, at one draft length.

    Attributes:
        found: number of accepted tokens, then the ids that continue the answer `(gamma + 2,)`; see
            `Rule.verify`.
        features: the target's, of the position before each of those ids `(1, gamma + 1, width)`.
        drafted: ids `(gamma,)`.
    """

    found: Tensor
    features: Tensor
    drafted: Tensor

    @property
    def num_accepted(self) -> Tensor:
        """`(1,)`."""
        return self.found[:1]

    @property
    def new_ids(self) -> Tensor:
        """`(gamma + 1,)`."""
        return self.found[1:]


@dataclass
class _Calls:
    """A round of one k and gamma.

    Attributes:
        chain: drafts; None in plain decoding.
        verify: verifies.
        draws: random numbers of a round; None where nothing is random.
    """

    chain: Callable[[], object] | None
    verify: Callable[[], object]
    draws: Draws | None
    kept: list[object] = field(default_factory=list)


class StaticDecoder:
    """Plain and speculative decoding of texts up to a length, in memory at fixed addresses.

    Args:
        target: verifies; its passes must be this package's own.
        draft: drafts, on a static cache.
        rule: how tokens are chosen.
        max_new_tokens: longest answer.
        room: positions of target and draft.
        feature_width: of the target's features.
        capture: how calls are made repeatable.

    """

    def __init__(
        self,
        target: Target,
        draft: CapturableDraft,
        rule: Rule,
        max_new_tokens: int,
        room: int,
        feature_width: int,
        capture: Capture,
    ):
        cache, draft_cache = target.static_cache(room), draft.static_cache(room)
        self._target, self._draft, self._rule, self._capture = target, draft, rule, capture
        self._max_new_tokens, self._stop = max_new_tokens, target.eos_token_ids()
        self._cache, self._length = cache, cache.length
        self._draft_cache, self._draft_length = draft_cache, draft_cache.length
        self._width = feature_width
        self._rounds: dict[int, _Round] = {}
        # By identity of the head, which `_Calls.kept` keeps alive; heads of one size can have other tokens.
        self._calls: dict[tuple[int | None, int], _Calls] = {}
        self._greedy_verify: dict[int, Callable[[], object]] = {}

    @torch.inference_mode()
    def load(self, head: DraftHead | None, draft_length: int) -> None:
        """Captures the calls of a head and a draft length once; None and 0 for plain decoding."""
        key = _key(head, draft_length)
        if key in self._calls:
            return
        self._length.fill_(0), self._draft_length.fill_(0)
        state = self._round(draft_length)
        draws = self._rule.draws(draft_length, head.size if head else 0, self._target.vocab_size)
        if draws:
            draws.redraw()
        proposals: list[Proposal] = []
        chain = None
        if head:
            chain = self._capture(lambda: self._chain(head, state, proposals, draws))
            # Capturing does not run the call, but the warm-up of the verification needs valid token ids.
            chain()
        if draws:
            verify = self._capture(lambda: self._verify(head, state, proposals, draws))
        else:
            if draft_length not in self._greedy_verify:
                call = self._capture(lambda: self._verify(None, state, [], None))
                self._greedy_verify[draft_length] = call
            verify = self._greedy_verify[draft_length]
        self._calls[key] = _Calls(chain, verify, draws, [head, proposals])

    def forget(self, heads: Iterable[DraftHead]) -> None:
        """Drops the calls that were captured with these heads."""
        gone = {id(head) for head in heads}
        self._calls = {key: calls for key, calls in self._calls.items() if key[0] not in gone}

    @torch.inference_mode()
    def decode(
        self,
        prefill: Prefill,
        head: DraftHead | None,
        draft_length: int,
        timeline: Timeline,
        max_rounds: int | None = None,
    ) -> Answer:
        """As `Decoder.plain` without a head, else as `Decoder.speculative`; its calls must be loaded."""
        calls, state = self._begin(prefill, head, draft_length)
        tokens: list[int] = [int(prefill.first_id)]
        accepted: list[int] = []
        timeline.start()
        if head:
            self._read_prompt(prefill, state)
            timeline.lap(PREFILL)
        while not self._ended(tokens) and (max_rounds is None or len(accepted) < max_rounds):
            if calls.draws:
                calls.draws.redraw()
            if calls.chain:
                calls.chain()
                timeline.lap(DRAFT)
            calls.verify()
            if head:
                timeline.lap(VERIFY)
            num_accepted, *found = state.found.tolist()
            for token in found[: num_accepted + 1]:
                tokens.append(token)
                if self._ended(tokens):
                    break
            accepted.append(num_accepted)
            timeline.lap(OTHER if head else VERIFY)
        return Answer(tokens, accepted if head else [])

    @torch.inference_mode()
    def queue(
        self,
        prefill: Prefill,
        head: DraftHead,
        draft_length: int,
        num_rounds: int,
        ready: Callable[[], object],
    ) -> None:
        """Queues rounds without reading what they find, so that the device never waits for the host.

        Args:
            prefill: the prompt.
            head: of the draft; its calls must be loaded.
            draft_length: gamma.
            num_rounds: at most as many as the room has positions for.
            ready: called once before the first round.
        """
        calls, state = self._begin(prefill, head, draft_length)
        assert calls.chain is not None
        self._read_prompt(prefill, state)
        ready()
        for _ in range(num_rounds):
            if calls.draws:
                calls.draws.redraw()
            calls.chain()
            calls.verify()

    def _begin(self, prefill: Prefill, head: DraftHead | None, draft_length: int) -> tuple[_Calls, _Round]:
        """What a round needs, with the target's cache and the first token in place."""
        calls, state = self._calls[_key(head, draft_length)], self._round(draft_length)
        num_prompt = len(prefill.prompt_ids)
        self._cache.load(prefill.cache, num_prompt)
        self._length.fill_(num_prompt)
        state.found.zero_()
        state.new_ids[:1] = prefill.first_id
        return calls, state

    def _read_prompt(self, prefill: Prefill, state: _Round) -> None:
        """The draft reads all of the prompt but its last position, which the first chain takes in."""
        before = len(prefill.prompt_ids) - 1
        self._draft_length.fill_(0)
        if before:
            self._draft_cache.rewind(self._draft_length)
            self._draft.read(prefill.prompt_ids[1:], prefill.features[:, :-1], self._draft_cache)
        self._draft_length.fill_(before)
        state.features[:, :1] = prefill.features[:, -1:]

    def _chain(self, head: DraftHead, state: _Round, proposals: list[Proposal], draws: Draws | None) -> None:
        """Reads the verified tokens, padded to the longest case, and drafts from the last of them."""
        draft, cache = self._draft, self._draft_cache
        cache.rewind(self._draft_length)
        hidden = draft.read(state.new_ids, state.features, cache).index_select(1, state.num_accepted)
        self._draft_length.add_(state.num_accepted + 1)
        cache.rewind(self._draft_length)
        drafted: list[Tensor] = []
        proposals.clear()
        for depth in range(len(state.drafted)):
            if depth:
                hidden = draft.continue_from(drafted[-1], hidden, cache)
                cache.rewind(cache.length + 1)
            logits = head.logits(draft.normed(hidden))
            token, proposal = self._rule.draft(head, logits[0], draws, depth)
            drafted.append(token)
            proposals.append(proposal)
        state.drafted.copy_(torch.cat(drafted))

    def _verify(
        self, head: DraftHead | None, state: _Round, proposals: list[Proposal], draws: Draws | None
    ) -> None:
        """Verifies the drafted tokens after the newest of the answer, and keeps what was accepted."""
        target, cache = self._target, self._cache
        cache.rewind(self._length)
        pending = state.new_ids.index_select(0, state.num_accepted)
        output = target.read(torch.cat([pending, state.drafted])[None], cache)
        logits = target.lm_head(output.hidden)[0]
        count, new_ids = self._rule.verify(head, logits, state.drafted, proposals, draws)
        self._length.add_(count + 1)
        state.features.copy_(output.features)
        state.found.copy_(torch.cat([count, new_ids]))

    def _round(self, draft_length: int) -> _Round:
        if draft_length not in self._rounds:
            like = self._target.embedding_weight
            ids = torch.zeros(draft_length + 2, dtype=torch.long, device=like.device)
            features = like.new_zeros(1, draft_length + 1, self._width)
            self._rounds[draft_length] = _Round(ids, features, ids.new_zeros(draft_length))
        return self._rounds[draft_length]

    def _ended(self, tokens: list[int]) -> bool:
        return tokens[-1] in self._stop or len(tokens) >= self._max_new_tokens


def _key(head: DraftHead | None, draft_length: int) -> tuple[int | None, int]:
    return (None if head is None else id(head), draft_length)
