"""`python -m bench`."""

import gc

# Imports create a million objects that stay. With the default thresholds Python scans them for garbage a
# thousand times, which takes a sixth of the start-up time.
gc.set_threshold(100_000, 50, 100)

from bench.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
