"""Decoding speed over every vocabulary size and draft length: predicted, with intervals, and chosen from."""
