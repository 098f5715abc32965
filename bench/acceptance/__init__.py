"""What a draft gets accepted, as arithmetic on what was replayed: no model, no torch."""
