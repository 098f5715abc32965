"""`task=predict`: what a draft that is not loaded would do on a GPU that is not here.

run.py    start to end; proposals.py what is known of the draft's proposals; show.py tells the result
"""

from bench.predict.run import run_predict

__all__ = ["run_predict"]
