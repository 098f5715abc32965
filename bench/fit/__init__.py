"""Latency models fitted to measurements, and their judgement; numpy and scipy, torch in `probe` only.

series.py     measured latencies of one component, and the work that each size takes
robust.py     robust least squares with coefficients that cannot be negative
models.py     the models; rooflines.py those with more than one limit, monotone.py the yardstick
resampling.py medians of prompts drawn anew
fitting.py    model + series -> coefficients with intervals; scores.py how well it fits
choice.py     latency -> the k it would choose, and what that loses
judge.py      every model of every component; fit_json.py writes it down
transfer.py   one device's coefficients on another
calibration.py a device from its limits; untried.py a draft never loaded
values.py     coefficients as readers know them; errors.py what can be wrong with measurements
probe.py      what a device without a data sheet reaches

Import rule: of this program it needs `cost`, `vocab`, `records` and the statistics of `measure`, no models.
"""
