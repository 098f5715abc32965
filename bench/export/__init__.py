"""Vocabulary maps and trimmed checkpoints, as serving engines load them, and their readers."""
