"""Many seeds of the batch lane: `python -m tests.simulation.batch_seeds 10000 [FIRST]`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from msgspec import Struct, field

from .batch_laws import broken_laws
from .batches import drawn, play
from .seeds import IN_MEMORY

TOLD_EVERY_SEEDS = 100


class BatchTally(Struct):
    """Sums over the seeds; the laws that broke are sentences."""

    seeds: int = 0
    sessions: int = 0
    kills: int = 0
    batches: int = 0
    requests: int = 0
    live: int = 0
    broken: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        return (
            f"{self.seeds:,} seeds, {self.sessions:,} sessions, {self.kills:,} kills, {self.batches:,} batches, "
            f"{self.requests:,} requests charged, {self.live:,} of them live; "
            f"{len(self.broken)} laws of the batch lane broken"
        )


def play_batch_seeds(seeds: range) -> BatchTally:
    """Play the seeds; each broken law is said at once."""
    tally = BatchTally()
    for seed in seeds:
        tally.seeds += 1
        folder = Path(tempfile.mkdtemp(dir=IN_MEMORY if IN_MEMORY.is_dir() else None))
        try:
            scenario = drawn(seed)
            played = play(scenario, folder / "run")
            found = [f"seed {seed}: {law}" for law in broken_laws(scenario, played)]
            tally.kills += played.kills
            tally.sessions += len(played.exit_codes)
            tally.batches += sum(played.world.created.values())
            tally.requests += played.world.gateway.ledger.count
            tally.live += sum(entry.batch is None for entry in played.world.charges)
        except Exception as error:  # noqa: BLE001 - told with its seed, and the next one is played
            found = [f"seed {seed}: {type(error).__name__}: {error}"]
        finally:
            shutil.rmtree(folder)
        for law in found:
            print(law, flush=True)
        tally.broken += found
        if tally.seeds % TOLD_EVERY_SEEDS == 0:
            print(tally.sentence(), file=sys.stderr, flush=True)
    return tally


if __name__ == "__main__":
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    played_seeds = play_batch_seeds(range(first, first + count))
    print(played_seeds.sentence())
    sys.exit(1 if played_seeds.broken else 0)
