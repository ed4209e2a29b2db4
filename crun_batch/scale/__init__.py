"""One job in several runs: its shards brought together."""
