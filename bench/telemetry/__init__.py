"""Power, clocks, temperature and load during a run, sampled by a process of its own; imports no torch."""
