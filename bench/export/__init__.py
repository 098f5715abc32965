"""Vocabulary maps and trimmed checkpoints in the formats of serving engines, and their readers."""
