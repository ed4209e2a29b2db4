"""From tickets to outcomes: pool, admission, retry, protocols, and what a gateway says of itself.

Owns the network and the clock. Must not know: files, prices, the job file. The pool asks its hooks for money.
"""
