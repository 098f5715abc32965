"""`task=select`: from a domain's text to a justified k and an exported vocabulary; nothing is measured."""
