"""The batch lane: a second sender beside the pool, with the same hooks, whose requests go many at a time."""
