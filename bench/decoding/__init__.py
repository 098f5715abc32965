"""Decoding loops: plain, speculative, and batched answers."""
