"""Learns how much co-located batches slow each other."""
