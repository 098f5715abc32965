"""Several runs side by side: hardware compared, and one run against an earlier one; no torch here.

devices.py      which device a run was measured on, and labels that tell devices apart
cases.py        what must be equal for two runs to be comparable; differences.py says what is not
load.py         folders -> runs with labels
comparison.py   runs with labels -> what can stand side by side, on the prompts that all have
frames.py       comparison -> tables; transfer.py the latency model of one device on another
figures.py      comparison -> figures
write.py        tables and figures into a folder; console.py the summary
paired.py       paired statistics; diff.py two runs -> what got slower, outcome.py the verdict

Import rule: of this program it needs `report`, `fit`, `cost`, `surface`, `records` and the statistics of
`measure`; nothing below `report` imports it.
"""
