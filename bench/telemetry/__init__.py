"""Power, clocks, temperature and load during a run, sampled by a separate process; imports no torch."""
