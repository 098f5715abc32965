"""Token counts, ranking, and trimmed draft vocabularies."""
