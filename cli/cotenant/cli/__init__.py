"""The `cotenant` command."""
