"""Expected acceptance of a grid of vocabulary sizes from one teacher-forced pass (sampled decoding)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.acceptance.expected import Ratios
from bench.decoding.replay import CHAINS, LOGIT_ROWS, AnswerText
from bench.decoding.sampling import Sampler
from bench.models.eagle3 import DraftHead, Eagle3Draft
from bench.models.unroll import Unroll


@torch.inference_mode()
def replay_sampled(
    draft: Eagle3Draft,
    head: DraftHead,
    prompt_ids: Tensor,
    text: AnswerText,
    orders: dict[str, np.ndarray],
    sizes: np.ndarray,
    sampler: Sampler,
    longest_draft: int,
) -> dict[str, Ratios]:
    """How likely a draft of each size would have had each token of an answer accepted.

    Args:
        draft: its cache is neither read nor written.
        head: the draft's whole LM head.
        prompt_ids: `(n,)`.
        text: a sampled answer, read with `sampler`.
        orders: by name, the ids of `head` as they enter a vocabulary `(head.size,)`.
        sizes: vocabulary sizes, ascending `(num_sizes,)`.
        sampler: that wrote the answer.
        longest_draft: gamma up to which depths are replayed.

    Returns:
        Ratios for the vocabularies of each order.
    """
    if text.target_probs is None:
        raise ValueError("a greedy answer has no distribution that it was sampled from; use replay")
    next_ids = torch.cat([prompt_ids[1:], text.token_ids])
    first, num_starts = len(prompt_ids) - 1, text.num_tokens - 1
    embeds = F.embedding(next_ids, draft.embedding)[None]
    unroll = Unroll(draft.body, draft.rotary, embeds, text.features[:, : len(next_ids)])
    columns = [_Columns(head, order, text.token_ids, sizes) for order in orders.values()]
    ratios = np.zeros((len(orders), num_starts, longest_draft, len(sizes)))
    for begin in range(0, num_starts, CHAINS):
        end = min(begin + CHAINS, num_starts)
        for depth, hidden in enumerate(unroll.chains(first + begin, first + end, longest_draft)):
            for rows in torch.arange(end - begin, device=next_ids.device).split(LOGIT_ROWS):
                logits = head.logits(draft.normed(hidden[0, rows])).float() / sampler.temperature
                places = begin + rows + depth + 1
                wanted = text.target_probs[places - 1, None]
                for index, column in enumerate(columns):
                    found = (column.probs(logits, places) / wanted).clamp(max=1)
                    ratios[index, (begin + rows).cpu(), depth] = found.cpu().numpy()
    return {name: Ratios(ratios[index], sizes) for index, name in enumerate(orders)}


class _Columns:
    """The head's rows in the order in which they enter a vocabulary."""

    def __init__(self, head: DraftHead, order: np.ndarray, token_ids: Tensor, sizes: np.ndarray):
        device = token_ids.device
        ids = torch.arange(head.size, device=device) if head.target_ids is None else head.target_ids
        entering = torch.from_numpy(order).to(device)
        self._rows = torch.searchsorted(ids, entering)
        # Rank of every token of the text, past all sizes where the draft does not have it.
        is_same = token_ids[:, None] == entering
        self._ranks = torch.where(is_same.any(1), is_same.long().argmax(1), head.size)
        self._sizes = torch.from_numpy(sizes).to(device)

    def probs(self, scaled: Tensor, places: Tensor) -> Tensor:
        """Probability of the text's token under the draft of each size `(n, num_sizes)`."""
        entering = scaled[:, self._rows].double()
        weights = (entering - entering.max(-1, keepdim=True).values).exp()
        ranks = self._ranks[places]
        own = weights.gather(1, ranks.clamp(max=weights.shape[1] - 1)[:, None])
        of_all = weights.cumsum(-1)[:, self._sizes - 1]
        # In a small vocabulary every weight may round to nothing beside the largest of the whole.
        return torch.where(ranks[:, None] < self._sizes, own / of_all.clamp(min=1e-300), 0)
