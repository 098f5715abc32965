"""Several runs side by side: hardware compared, and one run against an earlier one; no torch here.

devices.py      which device a run was measured on, and labels that tell devices apart
cases.py        what must be equal for two runs to be comparable; differences.py says what is not
load.py         folders -> runs with labels
comparison.py   runs with labels -> what can stand side by side, on the prompts that all have
frames.py       comparison -> tables; hardware.py and energy.py read what they need from a run
transfer.py     the latency model of one device on another
speed_figures.py, latency_figures.py   comparison -> figures, on panels.py; captions.py,
                sentences.py, limits.py -> words
hardware_report.py   all of these as one thing, and its folder
paired.py       paired statistics; diff.py two runs -> what got slower; outcome.py the verdict
write.py        tables and figures as files; console.py summaries; tasks.py what the command line calls

Import rule: of this program it needs `report`, `fit`, `cost`, `surface`, `records` and the statistics of
`measure`; nothing below `report` imports it.
"""
