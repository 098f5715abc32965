"""Records of runs -> findings: numbers, doubts and advice; draws nothing, imports no torch."""
