"""Interleaved measurement and statistics."""
