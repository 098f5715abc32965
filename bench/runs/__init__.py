"""One run, from start to end.

run.py          the life of every run: device, folder, telemetry, records, report
bench.py        task=bench: what is prepared and measured of a pair
draft.py        task=draft: the same of a draft without a target
pair.py         target, draft and known answers, loaded
workloads.py    text -> held-out prompts, rankings and sizes
folder.py       the folder of a run, found again after an interruption
environment.py  what a run was measured on
progress.py     the bar
selfcheck.py    task=selfcheck: the instruments held against themselves
"""
