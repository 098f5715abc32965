"""Records to tables, figures and pages; no torch here."""
