"""Pages of rows of a run of a million rows, as the local page asks for them: how long each takes.

    python benchmarks/page_million.py                      the run is made in a temporary folder, then goes
    python benchmarks/page_million.py --keep million-run   keeps the run directory there

Asked over HTTP at a page's own server (crun-batch[view]); the rows are made up by
tests/measurements/made_up_run.py.
The first page comes from the files, which the machine has in memory; the questions are asked when the page's
server has read the rows ahead. Each is asked three times, and once before.
"""

from __future__ import annotations

import json
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
WIDTH = 44
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
    "text in all columns, rare": [("q", "Review 166000:")],
    "text in all columns, absent": [("q", "zebra")],
    "text in all columns, absent, sorted": [("q", "no such words"), ("sort", "-cost_usd")],
    "regular expression, rare": [("q", "Review 1660.7"), ("in", "text"), ("regex", "1")],
    "regular expression in all columns, rare": [("q", "Review 1660.7"), ("regex", "1")],
    "regular expression in all columns, frequent": [("q", "lat[aeiou]"), ("regex", "1")],
    "sorted by a text, deep": [("sort", "text"), ("page", "5000")],
    "variants differ": [("differ", "1")],
    "variants differ, sorted, deep": [("differ", "1"), ("sort", "-latency_seconds"), ("page", "1000")],
    "random sample": [("queue", "random")],
    "lowest confidence": [("queue", "confidence")],
    "predicate": [("where", "output_tokens > 100 and gold <> output.label")],
}


def main() -> None:
    with asked_run(__doc__) as path, crun_batch.view(path) as page:
        base, _, token = page.url.partition("/#token=")
        print(f"{'the run opened, first page':{WIDTH}} {1000 * ask(base, token, 'rows', COLUMNS):7.0f} ms")
        print(f"{'one row, from the files':{WIDTH}} {1000 * ask(base, token, 'row', [('id', '100000')]):7.0f} ms")
        print(read_ahead(base, token))
        for name, parameters in QUESTIONS.items():
            tell(base, token, name, [*COLUMNS, *parameters])
        rows = [ask(base, token, "row", [("id", str(1000 * number))]) for number in range(100, 105)]
        print(f"{'one row, its six answers':{WIDTH}} {1000 * statistics.median(rows):7.0f} ms")


def read_ahead(base: str, token: str) -> str:
    """Waits until rows are no longer read ahead; how long that took, and what it holds."""
    begun = time.perf_counter()
    while (found := json.loads(answer(base, token, "status", [])))["read_ahead"]["is_growing"]:
        time.sleep(0.05)
    held = found["read_ahead"]
    seconds = time.perf_counter() - begun
    return (
        f"{held['rows']:,} rows read ahead in {seconds:.1f} s after the first page, {held['bytes'] / 1e6:.0f} MB"
    )


def tell(base: str, token: str, name: str, parameters: list[tuple[str, str]]) -> None:
    """One line: the page's first and middle time, and that of the count beside it."""
    pages = [ask(base, token, "rows", parameters) for _ in range(4)]
    count = ask(base, token, "count", parameters)
    first, middle = pages[0], statistics.median(pages[1:])
    beside = f"first {1000 * first:.0f} ms; counted beside it {1000 * count:.0f} ms"
    print(f"{name:{WIDTH}} {1000 * middle:7.0f} ms ({beside})")


def ask(base: str, token: str, name: str, parameters: list[tuple[str, str]]) -> float:
    """Seconds until the answer is whole."""
    begun = time.perf_counter()
    answer(base, token, name, parameters)
    return time.perf_counter() - begun


def answer(base: str, token: str, name: str, parameters: list[tuple[str, str]]) -> bytes:
    request = urllib.request.Request(
        f"{base}/api/{name}?{urlencode(parameters)}", headers={"X-Crun-Batch-Token": token}
    )
    with urllib.request.urlopen(request, timeout=300) as found:
        return found.read()


if __name__ == "__main__":
    main()
