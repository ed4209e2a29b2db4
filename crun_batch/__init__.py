"""Batch runs of large prompt tables against a model gateway."""
