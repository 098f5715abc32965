"""vocabtrim-bench: how small should a speculative draft's vocabulary be, and what does it buy?

The rooms, in the order in which data flows through them:

    domains/    text -> conversations and prompts, split into ranking and held-out
    corpus/     conversations -> token counts of assistant responses, at scale
    vocab/      token counts -> ranking, coverage, search -> `DraftVocab(k)`; pure arithmetic, no torch
    cost/       FLOPs of a draft; pure arithmetic
    export/     vocabulary maps and trimmed checkpoints as engines load them
    models/     target, EAGLE-3 and decoder-LM drafts: loading, trimming, key-value cache, CPU kernels
    decoding/   greedy loops (plain and speculative), replay, batched answers
    acceptance/ replay -> what every vocabulary size accepts; pure arithmetic
    telemetry/  power, clocks and load during a run, sampled by a process of its own
    device/     where tensors live, whose clock is read, and the lock on it
    measure/    probes and interleaved decodes, statistics
    records/    what a run writes down, append-only
    fit/        latency models fitted to measurements, judged and carried to other devices
    surface/    acceptance + latency -> speed of every (k, gamma), and the choice; pure arithmetic
    report/     records of one run -> tables, figures, Markdown, console; imports no torch
    compare/    several runs -> hardware side by side, or what became slower; imports no torch
    page/       one run or several -> one self-contained HTML page; imports no torch
    training/   the trainer that made the shipped draft in drafts/

    cli.py      command line: the only file that knows Hydra
    config/     typed configuration
    model_config.py  reads a model's config.json
    selection/  `task=select`, start to end: corpus -> vocab + cost -> export -> report, and `task=export`
    runs.py     one run, start to end: pair.py (models) + workloads.py (data) -> measure -> report
    selfcheck.py  `task=selfcheck`: the instruments held against themselves
    predict/    `task=predict`: a draft that is modelled from its configuration
    draft_run.py  `task=draft`: a decoder-LM draft measured alone, without a target
    progress.py  the bar of a run, over all that it does
    run_folder.py  where a run writes, and how an unfinished one is found again
    explain.py  what the command line says: errors of Hydra in one line, options of a group
    sweep.py    the jobs of a sweep, each a process with a log
    job_notes.py  how each of them ended and where its run is
    cores.py    CPU cores of jobs that run at the same time

Import rule: data flows one way. `errors`, `config`, `vocab`, `cost` and `acceptance` import nothing above
them; `decoding` never imports `measure`; `report` reads records and nothing else. A test holds this.
"""

from importlib.metadata import version

__version__ = version("vocabtrim-bench")
