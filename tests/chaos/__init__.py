"""Real processes, killed, starved and lied to: what must hold of them is written as laws.

`python -m tests.chaos` runs the long form and writes docs/promises.md.
"""
