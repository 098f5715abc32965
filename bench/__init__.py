"""vocabtrim-bench: how small should a speculative draft's vocabulary be, and what does it buy?

The rooms, in the order in which data flows through them:

    domains/    text -> conversations and prompts, split into ranking and held-out
    corpus/     conversations -> token counts of assistant responses, at scale
    vocab/      token counts -> ranking, coverage, search -> `DraftVocab(k)`; pure arithmetic, no torch
    cost/       FLOPs of a draft; pure arithmetic
    export/     vocabulary maps and trimmed checkpoints as engines load them
    models/     target and EAGLE-3 draft: loading, trimming, key-value cache, CPU kernels
    decoding/   greedy loops (plain and speculative), batched answers
    device/     where tensors live and whose clock is read
    measure/    interleaved measurement, statistics
    records.py  what a run writes down, append-only
    report/     records -> tables, figures, page, console; imports no torch
    training/   the trainer that made the shipped draft in drafts/

    cli.py      command line: the only file that knows Hydra
    config/     typed configuration
    model_config.py  reads a model's config.json
    selection/  `task=select`, start to end: corpus -> vocab + cost -> export -> report
    runs.py     one run, start to end: pair.py (models) + workloads.py (data) -> measure -> report

Import rule: data flows one way. `errors`, `config`, `records`, `vocab` and `cost` import nothing above them;
`decoding` never imports `measure`; `report` reads records and nothing else. A test holds this.
"""

from importlib.metadata import version

__version__ = version("vocabtrim-bench")
