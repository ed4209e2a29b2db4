"""The way of one row through the house: which functions it calls, how often that changes the module or the folder.

`python tests/row_trace.py [CHECKOUT]` runs a job over a few rows against the simulator, and notes every call of a
function of crun_batch on the thread of the event loop. What a row adds is the difference between a longer and a
shorter run, so that starting and ending do not count. One request in flight shows the way; with 64 many rows take
each step together, as in a real run. Counted are calls; and once more calls and returns, those of values too.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from itertools import groupby, pairwise
from pathlib import Path
from types import FrameType
from typing import Any

ROWS = {1: (20, 60), 64: (640, 1280)}
"""Of the shorter and the longer run, by requests in flight."""
VALUES = ("records.py", "options.py")
"""What a value or the clock says of itself is asked where one is, not elsewhere."""
NAMED = 40


def main(checkout: Path) -> None:
    """Print the figures of a checkout."""
    sys.path.insert(0, str(checkout))
    os.environ["PYTHONPATH"] = str(checkout)
    import crun_batch

    traced(crun_batch, checkout, 20, 1)  # modules call functions when they are loaded
    print("per row           calls  modules  folders   with returns and values: folders")
    for in_flight, (few, many) in ROWS.items():
        runs = [traced(crun_batch, checkout, rows, in_flight) for rows in (few, many)]
        wholes = [traced(crun_batch, checkout, rows, in_flight, whole=True) for rows in (few, many)]
        counts = [len(runs[1]) - len(runs[0])]
        counts += [changes(runs[1], key) - changes(runs[0], key) for key in (module_of, folder_of)]
        counts += [changes(wholes[1], folder_of) - changes(wholes[0], folder_of)]
        per_row = [count / (many - few) for count in counts]
        print(f"{in_flight:3} in flight {per_row[0]:10.1f} {per_row[1]:8.1f} {per_row[2]:8.1f} {per_row[3]:34.1f}")
    few, many = (traced(crun_batch, checkout, rows, 1) for rows in ROWS[1])
    print("\none row in the middle, folder by folder (x calls in a row), from its start to the next:")
    print(" ".join(f"{folder}x{number}" for folder, number in one_row(many)))
    added = Counter(many)
    added.subtract(Counter(few))
    print("\nmost called, per row:")
    for name, number in added.most_common(NAMED):
        print(f"{number / (ROWS[1][1] - ROWS[1][0]):8.1f}  {name}")


def traced(crun_batch: Any, checkout: Path, rows: int, in_flight: int, *, whole: bool = False) -> list[str]:
    """`folder/module.py:function` of every call while a run of so many rows sends.

    `whole`: calls of values too, and after each return the function of ours that goes on.
    """
    calls: list[str] = []
    prefix = str(checkout / "crun_batch") + "/"

    def note(frame: FrameType | None, event: str, _: object) -> None:
        assert frame is not None
        if event == "return" and whole and frame.f_code.co_filename.startswith(prefix):
            frame = frame.f_back
            while frame is not None and not frame.f_code.co_filename.startswith(prefix):
                frame = frame.f_back
        elif event != "call":
            return
        if frame is not None and frame.f_code.co_filename.startswith(prefix):
            name = frame.f_code.co_filename.removeprefix(prefix)
            if whole or name not in VALUES:
                calls.append(f"{name}:{frame.f_code.co_name}")

    with tempfile.TemporaryDirectory() as folder:
        job = crun_batch.Job(
            model="gpt-5.4-mini",
            prompt={"user": "Say {{ word }}."},
            params={"max_output_tokens": 8},
            limits={"concurrency": in_flight, "adaptive": False},
            output={"dir": f"{folder}/run"},
        )
        table = {"word": [f"word {number}" for number in range(rows)]}
        sys.setprofile(note)
        try:
            crun_batch.run(job, table=frame_of(table), simulate=True, handle_signals=False)
        finally:
            sys.setprofile(None)
    return calls


def frame_of(columns: dict[str, list[str]]) -> Any:
    """A table."""
    import polars as pl

    return pl.DataFrame(columns)


def module_of(name: str) -> str:
    """The module of a call."""
    return name.partition(":")[0]


def folder_of(name: str) -> str:
    """Its package."""
    return name.partition(":")[0].split("/")[0]


def changes(calls: list[str], key: Any) -> int:
    """How often one call is in another place than the one before."""
    return sum(key(one) != key(other) for one, other in pairwise(calls))


def one_row(calls: list[str]) -> list[tuple[str, int]]:
    """The folders between two starts of requests in the middle of the run."""
    starts = [place for place, name in enumerate(calls) if name.endswith(":start_event")]
    middle = len(starts) // 2
    part = calls[starts[middle] : starts[middle + 1]]
    return [(folder, len(list(group))) for folder, group in groupby(part, key=folder_of)]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path(__file__).parent.parent)
