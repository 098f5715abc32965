"""The trainer of the shipped draft."""
