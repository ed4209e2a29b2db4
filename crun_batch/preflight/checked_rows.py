"""All selected rows of a job, rendered once for `check`: what would be sent, what repeats, what has no request.

And what the graders expect of each: a wrong cell there is told before anything is paid.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec import field as struct_field

from crun_batch.load.prompt.rejections import Rejections, RowRejected
from crun_batch.load.prompt.templates import Unrenderable
from crun_batch.records import Row
from crun_batch.scoring.extract import last_number
from crun_batch.scoring.graders import as_text, what_is_right
from crun_batch.workload.packed_request import packed_request
from crun_batch.workload.request import Variant
from crun_batch.workload.workload import Workload

REQUESTS_SHOWN = 3
MOST_HASHES = 2_000_000
"""Requests whose hashes are kept to find identical ones; beyond, their number is a minimum."""


class CheckedRows(Struct):
    """What reading all selected rows has shown."""

    first: list[tuple[str, bytes]] = struct_field(default_factory=list)
    """(variant, body) of the first requests."""
    requests: int = 0
    identical: int = 0
    identical_is_minimum: bool = False
    rejections: Rejections = struct_field(default_factory=Rejections)
    nothing_is_right: Rejections = struct_field(default_factory=Rejections)
    """Rows with a request, and with no answer to it that a grader could find right."""
    waiting: dict[int, list[Row]] = struct_field(default_factory=dict)
    """Of variants that pack, the rows that wait for others."""


def read_all(workload: Workload) -> CheckedRows:
    """Render every request once: memory is bounded, whatever the number of rows."""
    seen_rows = CheckedRows()
    seen: set[int] = set()
    for batch in workload.table.rows(tuple(dict.fromkeys([*workload.columns, *workload.templates.columns]))):
        for row in batch:
            for variant in workload.variants:
                _look_at(variant, row, seen_rows, seen)
            for complaint in _wrongly_expected(workload, row):
                seen_rows.nothing_is_right.add(complaint)
    for variant in workload.variants:
        _ask_together(variant, seen_rows)
    return seen_rows


def _look_at(variant: Variant, row: Row, seen_rows: CheckedRows, seen: set[int]) -> None:
    """Count one request, or the row that has none, or that goes with others."""
    try:
        request = variant.request(row)
    except RowRejected as error:
        seen_rows.rejections.add(error)
        return
    key, pack = hash((variant.index, request.request_hash)), variant.job.pack
    if pack is None:
        seen_rows.requests += 1
        if len(seen_rows.first) < REQUESTS_SHOWN:
            seen_rows.first.append((variant.name, request.body))
    elif key not in seen or not variant.job.share_identical:
        waiting = seen_rows.waiting.setdefault(variant.index, [])
        waiting.append(row)
        if len(waiting) == pack.rows:
            _ask_together(variant, seen_rows)
    if key in seen:
        seen_rows.identical += 1
    elif len(seen) < MOST_HASHES:
        seen.add(key)
    else:
        seen_rows.identical_is_minimum = True


def _wrongly_expected(workload: Workload, row: Row) -> Iterator[RowRejected]:
    """What is wrong with what the graders expect of a row. A null there is meant: the row has no score."""
    for index, spec in enumerate(workload.job.score):
        key = f"score[{index}].expected"
        try:
            right = what_is_right(spec.expected, workload.templates.render)(row.values)
        except Unrenderable as error:
            yield RowRejected(row, f"cannot be rendered, so no answer gets a score: {error.reason}", key)
        else:
            if spec.grader == "number" and right is not None and last_number(as_text(right)) is None:
                yield RowRejected(row, f"has no number, so no answer can be right: {right!r:.80}", key)


def _ask_together(variant: Variant, seen_rows: CheckedRows) -> None:
    """Count the request that asks the rows of this variant which wait. A run shuffles them first."""
    rows, pack = seen_rows.waiting.pop(variant.index, []), variant.job.pack
    if not rows or pack is None:
        return
    seen_rows.requests += 1
    if len(seen_rows.first) < REQUESTS_SHOWN:
        request = (
            variant.request(rows[0]) if len(rows) == 1 else packed_request(variant, rows, pack.format).request
        )
        seen_rows.first.append((variant.name, request.body))
