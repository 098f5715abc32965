"""One run, from start to end.

run.py          the life of every run: device, folder, telemetry, records, report
repeats.py      several fresh processes of one run
bench.py        task=bench: prepares and measures a pair
served.py       engine=own,vllm: what vLLM loads
importing.py    task=import: results of other tools
draft.py        task=draft: the same for a draft without a target
pair.py         target, draft and cached answers, loaded
workloads.py    text -> held-out prompts, rankings and sizes
folder.py       the folder of a run, found again after an interruption
environment.py  machine, device, versions
progress.py     the progress bar
selfcheck.py    task=selfcheck: are measurements correct here?
speed.py        the loop beside what bounds it, for selfcheck
"""
