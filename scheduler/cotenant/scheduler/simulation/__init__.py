"""The simulator: the scheduler's core in virtual time, and arrivals, devices and beliefs round it."""
