"""Laws of going on: finished rows are passed over without being made, whatever is selected."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crun_batch.load.folders import Folders
from crun_batch.load.table.table import Table, open_table
from crun_batch.records import Row
from crun_batch.state.done import DoneMarks

ROWS = 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


def table_in(folder: Path, limit: int | None = None, where: str | None = None) -> Table:
    path = folder / "rows.parquet"
    if not path.exists():
        pq.write_table(pa.table({"n": range(ROWS)}), path, row_group_size=700)
    spec = SimpleNamespace(
        table=str(path), query=None, where=where, id=None, limit=limit, sample=None, csv=None, sheet=None
    )
    return open_table(spec, folders=Folders(folder))


def positions(batches: object) -> list[int]:
    rows: list[Row] = [row for batch in batches for row in batch]  # type: ignore[attr-defined]
    assert [row.values["n"] for row in rows] == [row.position for row in rows]
    return [row.position for row in rows]


@given(
    finished=st.sets(st.integers(0, ROWS - 1), max_size=60),
    prefix=st.integers(0, ROWS),
    limit=st.none() | st.integers(1, ROWS),
    where=st.none() | st.just("n % 3 = 1"),
)
@settings(deadline=None, max_examples=25)
def test_only_open_rows_are_read(
    folder: Path, finished: set[int], prefix: int, limit: int | None, where: str | None
) -> None:
    """The rows that are wanted are those of the selection whose bit is set, in the same order."""
    table = table_in(folder, limit, where)
    done = finished | set(range(prefix))
    wanted = pa.array([position not in done for position in range(ROWS)])

    everything = positions(table.rows(["n"]))

    assert [each for each in everything if each not in done] == positions(table.rows(["n"], wanted=wanted))


@given(codes=st.lists(st.integers(0, 2), min_size=12, max_size=12), each=st.sampled_from([1, 2, 3]))
@settings(deadline=None, max_examples=40)
def test_a_row_is_open_while_any_of_its_units_is(codes: list[int], each: int) -> None:
    """One open unit among a row's variants and repeats keeps the row open."""
    done = DoneMarks(len(codes))
    done.mark_all(bytearray(codes))

    rows = [codes[start : start + each] for start in range(0, len(codes), each)]

    assert [0 in row for row in rows] == done.open_rows(each).to_pylist()


@given(
    finished=st.sets(st.integers(0, 2 * ROWS - 1), max_size=60),
    limit=st.none() | st.integers(1, ROWS),
    where=st.none() | st.just("n % 3 = 1"),
)
@settings(deadline=None, max_examples=25)
def test_the_open_units_of_the_selection_are_counted(
    folder: Path, finished: set[int], limit: int | None, where: str | None
) -> None:
    """Two units a row: those of the selected rows that have no result."""
    table = table_in(folder, limit, where)
    selected = positions(table.rows(["n"]))
    done = DoneMarks(2 * ROWS)
    for slot in finished:
        done.finish(slot, "ok", None)

    assert [position in set(selected) for position in range(ROWS)] == table.selected.to_pylist()
    expected = sum(slot not in finished for position in selected for slot in (2 * position, 2 * position + 1))
    assert expected == done.open_among(table.selected, 2)
