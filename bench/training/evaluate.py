"""Mean acceptance length of a draft on held-out prompts: greedy, full vocabulary."""

from collections.abc import Sequence

from tqdm import tqdm

from bench.config import DomainSource
from bench.decoding.decoder import Decoder
from bench.decoding.timeline import Timeline
from bench.domains import Split, load_prompts, take_split
from bench.models.checkpoint import DraftCheckpoint
from bench.models.target import Target
from bench.training.plan import HELD_OUT_SHARE, SPLIT_SEED


def held_out_acceptance(
    target: Target,
    draft: DraftCheckpoint,
    domains: Sequence[DomainSource],
    num_prompts: int,
    max_new_tokens: int,
    draft_length: int,
) -> dict[str, dict[str, float]]:
    """Per domain: tokens per target pass, acceptance by position (unconditional), and sample sizes."""
    decoder, head = Decoder(target, max_new_tokens), draft.head(draft.vocab)
    found = {}
    for domain in domains:
        held_out = take_split(load_prompts(domain), Split.HELD_OUT, SPLIT_SEED, HELD_OUT_SHARE)
        encoded = (target.encode(p.as_dicts()) for p in held_out)
        prompts = [ids for ids in encoded if len(ids) <= domain.max_prompt_tokens][:num_prompts]
        accepted: list[int] = []
        for ids in tqdm(prompts, desc=domain.name, unit="prompt"):
            timeline = Timeline(lambda: None)
            accepted += decoder.speculative(
                decoder.prefill(ids), draft.draft, head, draft_length, timeline
            ).accepted
        rounds = len(accepted)
        found[domain.name] = {
            "mean_acceptance_length": 1 + sum(accepted) / rounds,
            **{
                f"acceptance_at_{i}": sum(a >= i for a in accepted) / rounds
                for i in range(1, draft_length + 1)
            },
            "num_prompts": len(prompts),
            "num_rounds": rounds,
        }
    return found
