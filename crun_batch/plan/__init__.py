"""Prompts to tickets: prices, bounds, estimates. Pure arithmetic; opens no file, no socket, reads no clock."""
