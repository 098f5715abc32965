"""One run, start to end: its pair, its workloads, its folder, and the instruments held against themselves."""
