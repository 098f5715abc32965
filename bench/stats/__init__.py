"""Every resampling, interval and robust estimate, and the confidence level; numpy and scipy only."""
