"""Measurements of parts by themselves, in virtual time or on drawn data: what reaches below the public names.

Scripts that print their figures (`python tests/measurements/intervals.py`), and what the benchmarks, which know
public names only, run from here.
"""
