"""What one row asks: the targets, their requests, the conversation that follows an answer. Sends nothing."""
