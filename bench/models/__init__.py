"""Target and draft: loading, running, trimming."""
