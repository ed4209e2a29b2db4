"""One module per client that is measured; each runs in a process of its own, and all measure themselves alike."""
