"""Latency models fitted to measurements, and their judgement; numpy and scipy only.

series.py         measured latencies of one component, the work of each size, the k that a latency chooses
latency_model.py  what a latency model is, and what its parameters mean
models.py         the models
fitting.py        model + series -> coefficients with intervals, its errors, and the same on another device
judge.py          every model of every component, and how that is written down
"""
