"""The contract: generated messages and stubs of `cotenant.v1`."""
