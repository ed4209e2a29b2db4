"""Pages of rows of a run of a million rows, as the local page asks for them: how long each takes.

    python benchmarks/page_million.py                      the run is made in a temporary folder, then goes
    python benchmarks/page_million.py --keep million-run   keeps the run directory there

Asked over HTTP at a page's own server (crun-batch[view]); the rows are made up by
tests/measurements/made_up_run.py.
Each question is asked three times, and once before with another page, so that files are in memory.
"""

from __future__ import annotations

import statistics
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import crun_batch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from measurements.made_up_run import asked_run

COLUMNS = [
    ("column", name) for name in ("review_id", "variant", "status", "text", "output", "score_right", "cost_usd")
]
QUESTIONS = {
    "first page": [],
    "last page": [("page", "10000")],
    "page in the middle": [("page", "5000")],
    "status": [("status", "error")],
    "variant, score": [("variant", "small/long"), ("score", "right<1")],
    "sorted by latency": [("sort", "-latency_seconds")],
    "sorted by cost, deep": [("sort", "cost_usd"), ("page", "5000")],
    "text in one column, frequent": [("q", "complaint"), ("in", "output")],
    "text in one column, rare": [("q", "Review 166000:"), ("in", "text")],
    "text in all columns, frequent": [("q", "late")],
    "text in all columns, absent": [("q", "zebra")],
    "regular expression, rare": [("q", "Review 1660.7"), ("in", "text"), ("regex", "1")],
    "variants differ": [("differ", "1")],
    "predicate": [("where", "output_tokens > 100 and gold <> output.label")],
}


def main() -> None:
    with asked_run(__doc__) as path, crun_batch.view(path) as page:
        base, _, token = page.url.partition("/#token=")
        begun = time.perf_counter()
        ask(base, token, "rows", COLUMNS)
        print(f"{'the run opened, first page':34} {1000 * (time.perf_counter() - begun):7.0f} ms")
        for name, parameters in QUESTIONS.items():
            tell(base, token, name, [*COLUMNS, *parameters])


def tell(base: str, token: str, name: str, parameters: list[tuple[str, str]]) -> None:
    """One line: the page's first and middle time, and that of the count beside it."""
    pages = [ask(base, token, "rows", parameters) for _ in range(4)]
    count = ask(base, token, "count", parameters)
    first, middle = pages[0], statistics.median(pages[1:])
    print(
        f"{name:34} {1000 * middle:7.0f} ms (first {1000 * first:.0f} ms; counted beside it {1000 * count:.0f} ms)"
    )


def ask(base: str, token: str, name: str, parameters: list[tuple[str, str]]) -> float:
    """Seconds until the answer is whole."""
    request = urllib.request.Request(
        f"{base}/api/{name}?{urlencode(parameters)}", headers={"X-Crun-Batch-Token": token}
    )
    begun = time.perf_counter()
    with urllib.request.urlopen(request, timeout=300) as answer:
        answer.read()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
