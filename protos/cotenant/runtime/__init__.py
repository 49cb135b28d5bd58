"""What the four services share beside the contract: how a process starts, talks, tells the time and stops."""
