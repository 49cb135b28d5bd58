"""A physical model of two operator segments that share one GPU, and what it is compared with."""
