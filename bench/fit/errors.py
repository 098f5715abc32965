"""What can be wrong with measurements that are to be fitted."""

from bench.errors import BenchError


class FitError(BenchError):
    """Measurements cannot be fitted or judged as they are."""
