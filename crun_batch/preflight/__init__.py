"""Before the first request: what the gateway offers, what the work costs, whether it may start."""
