"""Runs batches on one device, times them, tells what it measured."""
