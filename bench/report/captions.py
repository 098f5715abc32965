"""What each figure of a run shows, over how many prompts, what its intervals are; and the method in short."""

from bench.fit.series import DRAFT_STEP, LM_HEAD, VERIFY
from bench.report.frames import Run
from bench.surface.predict import NEGLIGIBLE

_OVER_PROMPTS = "95% bootstrap intervals over prompts"
_OF_MEDIAN = "95% bootstrap intervals of the median, over whole prompts"

_CAPTIONS = {
    "speedup": "Measured speed of everything that was decoded, on the same prompts: over plain decoding "
    "(bars), and over the faster full-vocabulary draft (numbers on them). Error bars and brackets: "
    f"{_OVER_PROMPTS}, resampled as pairs ({{n}}).",
    "surface": "Predicted tokens per second of every vocabulary size and draft length ({n}). The star is the "
    "fastest, the diamond the paper's k* at its best draft length; inside the red border nothing is "
    f"significantly more than {NEGLIGIBLE:.0%} slower than the fastest (95%, paired bootstrap over prompts).",
    "acceptance": "Above: tokens per target pass of every vocabulary size, replayed over the target's own "
    "held-out answers ({n}); a line per draft length. Below: the coverage that stands in for it, of those "
    "answers and, optimistically, of the answers that made the ranking. Counts, so without intervals.",
    "position": "Share of rounds in which the target agrees with the drafted token at each position, and "
    "with all before it ({n}). Counts, so without intervals.",
    "draft_latency": "Median time of a chained draft step by vocabulary size, split into draft layer, LM "
    "head and token selection, inside real rounds ({n}, several steps each).",
    "round_latency": "Median time of what comes once a round, by draft length, inside real rounds ({n}). "
    f"Bars: {_OF_MEDIAN}.",
    "isolated": "The same parts on their own may find their weights in the cache (warm); inside a round they "
    "do not. Bars: 95% bootstrap intervals of the median, over "
    "whole prompts inside rounds and over samples elsewhere.",
    "prediction": "Every decoded draft: tokens per second predicted from replay and probes, against "
    f"measured ({{n}}). Bars: {_OVER_PROMPTS} of the prediction; the band is 7% wide on either side.",
    "cross_domain": "Vocabularies used on other domains than the one that chose them: mean acceptance length "
    "and predicted speed over those of the full vocabulary ({n}). Above 1, trimming still pays.",
    "roofline": "Where the parts of a round stand under the device's limits: work per byte against work per "
    "second, from counted FLOPs and bytes and median times inside real rounds ({n}). The roof is the data "
    "sheet's, or measured by a probe where there is none. Numbers are k, or tokens verified.",
    "telemetry": "What was sampled beside the run; shaded: when each domain was measured ({n}).",
    f"fit_{LM_HEAD}": f"Latency models of the LM head over k, how far off each is, and the share that it "
    f"says a size saves ({{n}}). Bars: {_OF_MEDIAN}.",
    f"fit_{DRAFT_STEP}": f"Latency models of a chained draft step over k, how far off each is, and the share "
    f"that it says a size saves ({{n}}). Bars: {_OF_MEDIAN}.",
    f"fit_{VERIFY}": f"Latency models of a verification by its tokens ({{n}}). Bars: {_OF_MEDIAN}.",
}

METHOD = (
    "Acceptance of every vocabulary size and draft length is replayed: the draft, with its whole head, is "
    "unrolled over the target's own held-out answers; for each place and depth the sizes that would draft "
    "the target's token y form one interval, rank(y) <= k < the smallest rank among tokens that beat y, and "
    "walking the rounds over those intervals counts what decoding would accept. Sampled answers tell the "
    "expected acceptance instead, on a grid of sizes: a token of theirs came from an accepted draft with "
    "probability min(1, draft / target).",
    "Latency of a round's parts is probed inside real rounds, between the decodes, on the same prompts.",
    "Predicted tokens/s = tokens / sum of (draft prefill + rounds x round latency), where a round takes "
    "T_first(k) + (gamma - 1) T_step(k) + T_verify(gamma + 1) + T_other. Its 95% interval and the set of "
    f"sizes that are not significantly more than {NEGLIGIBLE:.0%} slower than the fastest are percentile "
    "bootstrap over prompts, of acceptance and latency together.",
    "What is decoded is chosen from a pilot: plain; the full vocabulary, at its own best draft length and at "
    "that of the optimum (trimming is compared with the faster); the predicted optimum; the paper's k* (the "
    "optimum of U(k) = a C(k) + (1 - a) R(k), arXiv 2603.05210) at its best draft length; the smallest size "
    "that loses no acceptance; and another draft length as a check. All share every prompt, in seeded random "
    "order. The optimum of the pilot may differ from that of the surface shown here, which all probes went "
    "into.",
    "tokens/s counts the tokens after the first, over the time from the end of the target's prefill; the "
    "draft's own prefill is in that time. Speedups are total throughput over the same prompts, with 95% "
    "bootstrap intervals over prompts, resampled as pairs.",
    "Acceptance rate is accepted over drafted tokens. Mean acceptance length counts tokens per target pass, "
    "bonus token included.",
    "Held-out coverage C(k) is over the target's answers to prompts that the ranking never saw.",
    "FLOPs count 2 per multiply-add, and embedding lookups 0; R(k) is the share of a draft's latency, or of "
    "its FLOPs, that a vocabulary of k saves.",
    "A prompt whose answer ended with its first token is left out: decoding it takes no time.",
)


def captions(run: Run) -> dict[str, str]:
    """By the name of the figure."""
    counts = [f"{domain}: {len(prompts)} prompts" for domain, prompts in run.prompts.items()]
    n = f"n = {', '.join(counts)}" if len(counts) > 1 else f"n = {counts[0].partition(': ')[2]}"
    return {name: text.format(n=n) for name, text in _CAPTIONS.items()}
