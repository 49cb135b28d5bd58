"""Fixtures for all tests, and hypothesis profiles."""

import os

from hypothesis import settings

from evaluation_logs import simulated, spy
from stacks import identity_stack

__all__ = ["identity_stack", "simulated", "spy"]

# CI must not fail because a shared machine was slow for a moment.
settings.register_profile("default", deadline=None, max_examples=int(os.environ.get("COTENANT_EXAMPLES", "100")))
settings.load_profile("default")
