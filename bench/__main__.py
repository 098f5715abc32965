"""`python -m bench`."""

import gc

# Imports leave a million objects that stay. Going through them for garbage a thousand times, as Python does
# unless told otherwise, is a sixth of the time that it takes to start.
gc.set_threshold(100_000, 50, 100)

from bench.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
