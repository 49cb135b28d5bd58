"""Decides batching, concurrency, placement and admission."""
