"""Laws of tables in an SQLite database: the rows of Parquet, in a stable order, from one moment's view."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_table import Input, column_of, ids_of, mistakes_of, rows_of

from crun_batch.load.folders import Folders
from crun_batch.load.table.table import Table, open_table

COLUMNS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.binary(): st.binary(),
}


def written(folder: Path, *statements: str) -> None:
    (folder / "a.db").unlink(missing_ok=True)
    with closing(sqlite3.connect(folder / "a.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def opened(folder: Path, table: str = "t", **keys: Any) -> Table:
    return open_table(Input(f"sqlite:///a.db?table={table}", **keys), folders=Folders(folder))


@given(data=st.data(), kinds=st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
def test_any_table_is_the_same_as_parquet(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kinds: list[pa.DataType]
) -> None:
    folder = tmp_path_factory.mktemp("sqlite")
    count = data.draw(st.integers(1, 5))
    columns = [data.draw(st.lists(st.none() | COLUMNS[kind], min_size=count, max_size=count)) for kind in kinds]
    names = [f'column "{number}"' for number in range(len(kinds))]
    table = pa.table([pa.array(c, kind) for c, kind in zip(columns, kinds, strict=True)], names=names)
    pq.write_table(table, folder / "a.parquet")
    listed = ", ".join(f'"column ""{number}"""' for number in range(len(kinds)))
    with closing(sqlite3.connect(folder / "a.db")) as connection:
        connection.execute(f"create table t ({listed})")
        marks = ", ".join("?" * len(kinds))
        connection.executemany(f"insert into t values ({marks})", list(zip(*columns, strict=True)))
        connection.commit()
    wanted = open_table(Input("a.parquet"), folders=Folders(folder))
    assert [row.values for row in rows_of(wanted)] == [row.values for row in rows_of(opened(folder))]
    assert table.schema.names == opened(folder).schema.names


def test_rows_come_by_rowid_or_by_the_primary_key(tmp_path: Path) -> None:
    """However they were inserted; also where columns have the names of the rowid."""
    values = "insert into t values ('b', 2), ('a', 1), ('c', 3)"
    written(tmp_path, "create table t (k text, n integer primary key)", values)
    assert [1, 2, 3] == column_of(opened(tmp_path), "n")
    written(tmp_path, "create table t (k text, n integer, primary key (k)) without rowid", values)
    assert (["a", "b", "c"], ["b", "c"]) == (
        column_of(opened(tmp_path), "k"),
        ids_of(opened(tmp_path, id="k", where="n > 1")),
    )
    written(tmp_path, "create table t (rowid text, n integer)", values)
    assert ["b", "a", "c"] == column_of(opened(tmp_path), "rowid")


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (
            ["create table t (a)", "insert into t values (1), (null), ('x')"],
            "`a` has a text here and a whole number in row 0",
        ),
        (
            ["create table t (a)", "insert into t values (x'00'), (1)"],
            "`a` has a whole number here and bytes in row 0",
        ),
        (["create table t (a)", "insert into t values (0.5), (9007199254740993)"], "9007199254740993, too long"),
        (["create table reviews (a)"], "has no table `t`; "),
        (["create table u (a)", "create view t as select a from u"], "`t` is a view, whose rows have no order"),
        (["create table t (rowid, _rowid_, oid)", "insert into t values (1, 2, 3)"], "have no order"),
        (["create table t (a)", "insert into t values (cast(x'ff' as text))"], "Could not decode to UTF-8"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(statements: list[str], words: str, tmp_path: Path) -> None:
    written(tmp_path, *statements)
    (mistake,) = mistakes_of(Input("sqlite:///a.db?table=t"), tmp_path)
    assert (str(tmp_path / "a.db"), True) == (mistake.file, words in mistake.message), mistake.message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("sqlite:///a.db", "names no rows; write sqlite:///FILE?table=NAME, or ?query=select ..."),
        ("sqlite:///no.db?table=t", "there is no file `no.db`"),
        ("sqlite:///text.db?table=t", "file is not a database"),
        (["sqlite:///a.db?table=t", "text.db"], "stands in a list"),
        ("postgresql://u:secret@host/db", "holds a password, which has no place in a job file"),
        ("https://host/rows.csv?token=secret", "holds credentials, which have no place in a job file"),
        ("ftp://u:secret@host/rows.csv", "`ftp://` is not read"),
    ],
)
def test_an_address_that_is_no_table_is_told(table: Any, words: str, tmp_path: Path) -> None:
    """Without what stands in it besides: that may be a password."""
    written(tmp_path, "create table t (a)")
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at\n" * 100)
    (mistake,) = mistakes_of(Input(table), tmp_path)
    assert (True, False) == (words in mistake.message, "secret" in mistake.message)


def test_a_writer_may_go_on_and_nothing_is_written(tmp_path: Path) -> None:
    """What was opened stays as it was, with its fingerprint; the next opening has the new rows and another one."""
    written(tmp_path, "create table t (a)", "insert into t values (1), (2)")
    before = (tmp_path / "a.db").read_bytes()
    table = opened(tmp_path)
    fingerprint = table.fingerprint()
    assert before == (tmp_path / "a.db").read_bytes()
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("insert into t values (3)")
        connection.commit()
    assert ([1, 2], fingerprint) == (column_of(table, "a"), table.fingerprint())
    later = opened(tmp_path)
    assert ([1, 2, 3], False) == (column_of(later, "a"), fingerprint == later.fingerprint())


def test_another_thread_may_read_it(tmp_path: Path) -> None:
    written(tmp_path, "create table t (a)", "insert into t values (1)")
    table, found = opened(tmp_path), []
    thread = threading.Thread(target=lambda: found.append(column_of(table, "a")))
    thread.start()
    thread.join()
    assert [[1]] == found
