"""The corridor: the only code that enters the rooms. `run.py` is its front; each module here is one stretch of it.

workload.py   load -> what is to be done: rows, variants, requests, tickets
preflight.py  plan and gateway -> may we start: models, credits, estimate, budget
session.py    send <-> store: one session of sending, every event recorded
opened.py     store -> people: what a run directory says, live or finished
"""
