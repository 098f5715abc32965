"""What each figure of a comparison shows, what n is, and what its intervals are."""

from bench.surface.predict import NEGLIGIBLE

CAPTIONS = {
    "speedup_by_size": (
        "Speed over plain decoding for every vocabulary size at its fastest draft length. Lines: predicted "
        "from replayed acceptance and probed latency; bands: 95% bootstrap interval of the prediction over n "
        "prompts, plain decoding taken as measured. Markers: drafts as decoded, with 95% bootstrap intervals "
        "over the same prompts as pairs; hollow where their draft length is not the line's."
    ),
    "best_size": (
        "The predicted fastest vocabulary size (marker), its 95% bootstrap interval over n prompts (line); "
        f"wide bands: sizes that some draft length has not significantly more than {NEGLIGIBLE:.0%} slower "
        "than the fastest (95%)."
    ),
    "acceptance_by_size": (
        "Tokens per target pass of every vocabulary size, replayed over n held-out answers: a line per "
        "device at its own fastest draft length, one for all that accept the same. Dotted: what the sizes "
        "cover of those answers. Counts, so without intervals."
    ),
    "draft_step_split": (
        "Median time of a chained draft step by vocabulary size on every device, split into draft layer, LM "
        "head and token selection, inside real rounds; over all domains of the device's runs."
    ),
    "throughput": (
        "Tokens per second as decoded, over the same n prompts on every device: plain decoding, the fastest "
        "draft with the full vocabulary, and the optimum that each run chose for itself. Intervals of the "
        "speedups, paired by prompt, are in the table best."
    ),
    "energy": "Energy per decoded token after the first, over the same n prompts on every device.",
    "step_latency": (
        "Median of a chained draft step (layer, LM head, selection) inside real rounds, against the memory "
        "bandwidth of the device; a colour per vocabulary size, a marker per device; bars: 95% bootstrap "
        "interval of the median over steps. Dotted: the bytes that the step moves over the bandwidth."
    ),
    "transfer": (
        "Mean absolute error, over the measured sizes, of a draft step's latency model on a device that it "
        "was not fitted on, after scaling by the ratio of the data sheets."
    ),
}
