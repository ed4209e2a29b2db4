"""Graders and judges: what an answer is worth, computed from what is stored. Sends nothing."""
