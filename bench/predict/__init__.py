"""`task=predict`: what a draft that is not loaded would do on a GPU that is not here.

run.py          start to end: shapes, device, calibration, and the result on the console
gpus.py         `task=gpus`: a pair on every GPU of which kernel latencies are published
profile.py      acceptance for that: a profile, a run's replay, or a coverage
latency.py      published kernels of the GPU, or its data sheet
acceptance.py   what is known of the draft's acceptance: that of a run, or a coverage curve
model.py        sources of latency, and from latency and acceptance to speedup and the choice of k
"""

from bench.predict.run import run_predict

__all__ = ["run_predict"]
