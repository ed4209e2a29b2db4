"""Intervals, agreement, comparisons of variants. Pure: takes numbers, gives numbers."""
