"""From token counts to money: prices, bounds, estimates, budget, account. Integers of pico-units.

Pure: opens no file and no socket, reads no clock.
"""
