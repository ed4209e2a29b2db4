"""How long a reply waits for others, so that they are taken in together: each of them then costs less CPU time.

Where a gateway is the limit its replies come one by one, and alone each would cost twice as much.
"""

GATHER_SECONDS, MOST_GATHER_SHARE = 0.002, 0.05
LONGEST_GATHER_SECONDS, GATHER_SHARE = 0.005, 0.01


def gather_seconds(took_seconds: float) -> float:
    """Of a reply that took so long: 2 ms where that is a twentieth of it at most, 5 ms where it is a hundredth.

    The loop counts whole milliseconds: where replies take less than 10 ms they do not wait, and come together.
    """
    briefly = min(MOST_GATHER_SHARE * took_seconds, GATHER_SECONDS)
    return max(briefly, min(GATHER_SHARE * took_seconds, LONGEST_GATHER_SECONDS))
