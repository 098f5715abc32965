"""Latency models fitted to measurements, and their judgement; numpy and scipy only.

series.py   measured latencies of one component, the work of each size, and the k that a latency would choose
models.py   the models
fitting.py  model + series -> coefficients with intervals, its errors, and one device's coefficients on another
judge.py    every model of every component, and how that is written down
"""
