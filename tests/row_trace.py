"""The way of one row through the house: which functions it calls, how often that changes the module or the folder.

`python tests/row_trace.py [CHECKOUT]` runs a job over a few rows, one request in flight, against the simulator,
and notes every call of a function of crun_batch on the thread of the event loop. What a row adds is the difference
between a longer and a shorter run, so that starting and ending do not count.
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

FEW, MANY = 20, 60
VALUES = ("records.py", "options.py")
"""What a value or the clock says of itself is asked where one is, not elsewhere."""
NAMED = 40


def main(checkout: Path) -> None:
    """Print the figures of a checkout."""
    sys.path.insert(0, str(checkout))
    os.environ["PYTHONPATH"] = str(checkout)
    import crun_batch

    traced(crun_batch, checkout, FEW)  # modules call functions when they are loaded
    few, many = (traced(crun_batch, checkout, rows) for rows in (FEW, MANY))
    rows = MANY - FEW
    print(f"calls per row                {(len(many) - len(few)) / rows:8.1f}")
    for what, key in (("changes of module per row", module_of), ("changes of folder per row", folder_of)):
        print(f"{what:28} {(changes(many, key) - changes(few, key)) / rows:8.1f}")
    print("\none row in the middle, folder by folder (x calls in a row), from its start to the next:")
    print(" ".join(f"{folder}x{number}" for folder, number in one_row(many)))
    added = Counter(many)
    added.subtract(Counter(few))
    print("\nmost called, per row:")
    for name, number in added.most_common(NAMED):
        print(f"{number / rows:8.1f}  {name}")


def traced(crun_batch: Any, checkout: Path, rows: int) -> list[str]:
    """`folder/module.py:function` of every call while a run of so many rows sends."""
    calls: list[str] = []
    prefix = str(checkout / "crun_batch") + "/"

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        name = code.co_filename.removeprefix(prefix)
        if event == "call" and code.co_filename.startswith(prefix) and name not in VALUES:
            calls.append(f"{name}:{code.co_name}")

    with tempfile.TemporaryDirectory() as folder:
        job = crun_batch.Job(
            model="gpt-5.4-mini",
            prompt={"user": "Say {{ word }}."},
            params={"max_output_tokens": 8},
            limits={"concurrency": 1, "adaptive": False},
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
