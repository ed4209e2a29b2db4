"""Many seeds, one after the other: what was played, and which laws broke."""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct, field

from .laws import Verdict, judge_seed

IN_MEMORY = Path("/dev/shm")


class Tally(Struct):
    """Sums over the seeds."""

    seeds: int = 0
    sessions: int = 0
    kills: int = 0
    died_in: Counter[str] = field(default_factory=Counter)
    posts: int = 0
    virtual_seconds: float = 0.0
    real_seconds: float = 0.0
    broken: dict[int, list[str]] = field(default_factory=dict)

    def add(self, seed: int, verdict: Verdict) -> None:
        self.seeds += 1
        self.sessions += verdict.sessions
        self.kills += verdict.kills
        self.died_in += verdict.died_in
        self.posts += verdict.posts
        self.virtual_seconds += verdict.virtual_seconds
        if verdict.broken:
            self.broken[seed] = verdict.broken

    def add_all(self, other: Tally) -> None:
        """Take in what another process played."""
        for name in ("seeds", "sessions", "kills", "died_in", "posts", "virtual_seconds", "real_seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.broken |= other.broken

    def sentence(self) -> str:
        """In words."""
        return (
            f"{self.seeds:,} seeds, {self.sessions:,} sessions, {self.kills:,} kills, {self.posts:,} requests, "
            f"{self.virtual_seconds / 3600:,.1f} simulated hours in {self.real_seconds:,.0f} s; "
            f"{len(self.broken)} seeds break a law"
        )


def play_seeds(seeds: Iterable[int], *, say: Callable[[str], None], until: float = float("inf")) -> Tally:
    """Play the seeds until the monotonic moment `until`; each that breaks a law is said at once."""
    tally = Tally()
    began = time.monotonic()
    memory = IN_MEMORY if IN_MEMORY.is_dir() else None
    with _settled(), tempfile.TemporaryDirectory(dir=memory) as folder:
        for seed in seeds:
            if time.monotonic() > until:
                break
            place = Path(folder) / str(seed)
            try:
                verdict = judge_seed(seed, place)
            except Exception:  # noqa: BLE001 - a seed that ends in a traceback breaks the first law of all
                verdict = Verdict([traceback.format_exc()])
            shutil.rmtree(place, ignore_errors=True)
            tally.add(seed, verdict)
            for law in verdict.broken:
                say(f"python -m tests.simulation {seed}: {law}")
    tally.real_seconds += time.monotonic() - began
    return tally


@contextmanager
def _settled() -> Iterator[None]:
    """What was loaded until now is for ever: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def play_until(until: float, seeds: range) -> Tally:
    """The same in a process of its own: what breaks is printed."""
    return play_seeds(seeds, say=lambda text: print(text, flush=True), until=until)
