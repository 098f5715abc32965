"""Published kernel latencies of GPUs, looked up and composed; no torch, nothing is measured here.

A room of its own, as `fit` describes what was measured here and this is what others measured: it has a
source, a licence and faults of its own, and what is said of it must name them.

tidy.py       the tables of the pinned wheel, or of a user's own file, under one set of names and units
surface.py    a smooth surface through a grid of latencies, with the error on what is left out
products.py   latency of a matrix product: exact, interpolated or extrapolated, and rows that are doubtful
attention.py  latency of attention over a context
experts.py    latency of a whole layer of experts
target.py     what a target's config.json says, experts and windows included
ready.py      pairs whose shapes are at hand, in shapes/
compose.py    a pass of a draft or target from its products and attention, and the terms no table holds
"""
