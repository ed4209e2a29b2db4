"""`python -m tests.simulation SEED [LAST]`: play one seed again, or all of a range; exit 1 where a law breaks."""

from __future__ import annotations

import sys

from .play import drawn
from .seeds import play_seeds


def main(arguments: list[str]) -> int:
    first = int(arguments[0])
    last = int(arguments[1]) if len(arguments) > 1 else first
    if first == last:
        print(drawn(first))
    tally = play_seeds(range(first, last + 1), say=print)
    print(tally.sentence())
    return 1 if tally.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
