"""Entries to words: progress, summaries, scores, reports. Pure: takes values, gives text; prints nothing."""
