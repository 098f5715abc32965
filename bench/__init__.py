"""vocabtrim-bench: how small should a draft model's vocabulary be, and how much faster is decoding?

What is a value and not code lies in conf/: one YAML file per GPU (its data sheet), domain, pair and
experiment. CONTRIBUTING.md says which files to touch for a new domain, engine, draft, figure and so on.

The rooms, roughly in the order in which data flows through them:

    text/        data sets and files -> conversations -> prompts and token counts of assistant responses
    vocab/       token counts -> ranking, coverage, search -> `DraftVocab(k)`; pure arithmetic, no torch
    cost/        FLOPs and bytes of a draft, reader of the data sheets in conf/gpu/; pure arithmetic
    gpu_tables/  kernel latencies of GPUs that others published, looked up and composed; they have a source, a
                 licence and faults of their own, which the rooms of what is measured here do not know
    models/      target and draft: reading, running, trimming; models/draft.py: what every draft can do
    decoding/    plain and speculative decoding, replay; decoding/engine.py: what every engine does
    imported/    result files of other benchmark tools: one reader for each
    device/      where tensors live and which clock times them; the lock on the device
    telemetry/   power, clocks and load during a run, sampled by a separate process
    measure/     one timing loop: probes, whole decodes, parts in isolation
    records/     what a run writes, append-only
    runs/        one run from start to end: pair, workloads, folder, measurement, report
    surface/     acceptance + latency -> speed of every (k, gamma), and the choice; pure arithmetic
    fit/         latency models fitted to measurements, judged and carried to other devices
    stats/       every resampling, interval and robust estimate, and the confidence level
    analysis/    records of one run or several -> findings: numbers, doubts, advice; draws nothing
    report/      findings -> page, Markdown, console, figures and tables; computes nothing
    select/      `task=select`: a vocabulary from text alone; `task=export`: that of a run
    export/      the files that both write: vocabulary maps and trimmed checkpoints in engines' formats
    predict/     `task=predict`: a draft estimated from its configuration on a GPU that is not here
    training/    the trainer of the drafts that are shipped in drafts/

    cli.py         the command line: the only file that uses Hydra
    config/        typed configuration: what every key means and which values are possible
    tasks.py       which function runs each task
    sweep.py       the jobs of a sweep: each a process with its own log, CPU cores and note of how it ended
    variant.py     one way to decode (k, gamma, batch), from plan to record to table; the parts of a round
    acceptance.py  replay -> acceptance of every vocabulary size at one gamma; pure arithmetic
    assets.py      downloads, pinned by hash
    caches.py      cached files: damaged ones are made again, missing ones are done without
    progress.py    lines for a person who waits, on a terminal and in a log
    identity.py    what a stored result was made of: hashes of every ingredient
    errors.py      errors that a user can fix

Import rule: a room imports only from rows above its own, or from its own row (a test checks it). Rooms with *
import no torch.

    1  errors, variant, config, stats, vocab, cost, acceptance, gpu_tables: all *
    2  text, records *, imported *, device, models, export, telemetry
    3  surface *, fit *
    4  decoding, measure; and apart from these: analysis *, and report * above it
    5  runs, select, predict, training, tasks, sweep, cli
"""

from importlib.metadata import version

__version__ = version("vocabtrim-bench")
