"""From run directories to reports and comparisons: queries, figures, plots, the HTML page.

Reads without a lock, also while a run goes on.
"""
