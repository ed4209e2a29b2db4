"""Exact token counts, by the vocabulary that a model reads with, in a process that ends when it has counted."""
