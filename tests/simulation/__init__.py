"""Deterministic simulation: whole jobs in virtual time, with faults, kills and power cuts drawn from a seed.

`python -m tests.simulation SEED` plays one seed again, exactly.
"""
