"""Pages of rows of a run of a million rows, as the local page asks for them: how long each takes.

    python benchmarks/page_million.py                      the run is made in a temporary folder, then goes
    python benchmarks/page_million.py --keep million-run   keeps the run directory there
    python benchmarks/page_million.py --docs               and puts the times into docs/view.md

Asked over HTTP at a page's own server (crun-batch[view]); the rows are made up by
tests/measurements/made_up_run.py.
The first page comes from the files, which the machine has in memory; the questions are asked when the page's
server has read the rows ahead. Each is asked three times, and once before.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from machine import description

import crun_batch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from measurements.made_up_run import asked_run

COLUMNS = [
    ("column", name) for name in ("review_id", "variant", "status", "text", "output", "score_right", "cost_usd")
]
GOLD = [("gold", "gold")]
PAGE = Path(__file__).parents[1] / "docs" / "view.md"
BEGINS, ENDS = "<!-- times of a page -->\n", "<!-- end -->"
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
    writes = "--docs" in sys.argv
    sys.argv = [one for one in sys.argv if one != "--docs"]
    with asked_run(__doc__) as path, crun_batch.view(path) as page:
        base, _, token = page.url.partition("/#token=")
        lines = [
            told("the run opened, first page", [ask(base, token, "rows", COLUMNS)]),
            told("one row, at once after it", [ask(base, token, "row", [("id", "100000")])]),
        ]
        ahead = read_ahead(base, token)
        for name, parameters in QUESTIONS.items():
            asked = [*COLUMNS, *parameters]
            pages = [ask(base, token, "rows", asked) for _ in range(4)]
            lines.append(told(name, pages, ask(base, token, "count", asked)))
        rows = [ask(base, token, "row", [("id", str(1000 * number))]) for number in range(100, 104)]
        lines.append(told("one row with its six answers", rows))
        lines.append(told("variants compared, with right labels", [ask(base, token, "compare", GOLD)]))
        lines.append(told("the same comparison again", [ask(base, token, "compare", GOLD)]))
    if writes:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGINS)
        PAGE.write_text(
            f"{before}{BEGINS}{in_docs(lines, ahead)}{ENDS}{rest.partition(ENDS)[2]}", encoding="utf-8"
        )


def told(name: str, seconds: list[float], counted: float | None = None) -> str:
    """A line of the table, said as soon as it is known: the middle of the later times, the first, the count's."""
    first, later = seconds[0], seconds[1:] or seconds
    counts = "" if counted is None else f"{1000 * counted:,.0f}"
    line = f"| {name} | {1000 * statistics.median(later):,.0f} | {1000 * first:,.0f} | {counts} |"
    print(line)
    return line


def in_docs(lines: list[str], ahead: str) -> str:
    """The table with its condition."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    command = f"`python benchmarks/page_million.py`{f' at nice {nice}, beside other work' if nice else ''}"
    condition = (
        f"A run of 1,000,000 results, {len(COLUMNS)} columns, 100 rows a page; milliseconds until the answer is "
        f"whole, over HTTP. {ahead}. {command}; {description()}."
    )
    wrapped = "\n".join(textwrap.wrap(condition, 118, break_on_hyphens=False, break_long_words=False))
    head = "| question | asked again | first time | its count |\n|---|---|---|---|"
    return "\n".join([f"\n{wrapped}\n", head, *lines, ""])


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
