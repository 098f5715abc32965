"""`task=predict`: what a draft that is not loaded would do on a GPU that is not here.

run.py          start to end: shapes, device, calibration, and the result on the console
acceptance.py   what is known of the draft's acceptance: that of a run, or a coverage curve
model.py        sources of latency, and from latency and acceptance to speedup and the choice of k
"""

from bench.predict.run import run_predict

__all__ = ["run_predict"]
