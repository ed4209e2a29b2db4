"""Sums of floats that come out the same to the last bit, whatever order the rows came in.

A float sum depends on the order of its parts, and polars hands groups on in any order: without this two reports of
one run may differ in their last digit, and a figure that has not changed looks as if it had.
"""

from __future__ import annotations

import polars as pl


def sum_of(values: pl.Expr) -> pl.Expr:
    """The sum; nulls do not count."""
    return _in_order(values).list.sum()


def mean_of(values: pl.Expr) -> pl.Expr:
    """The mean; nulls do not count, and of nothing else there is none."""
    return _in_order(values).list.mean()


def _in_order(values: pl.Expr) -> pl.Expr:
    """The values of a group as one sorted list: a plain sort before a sum is taken out again by the optimizer."""
    return values.implode().list.sort()
