"""Laws of the prompt table: the same rows from every format, in order, flat, and every mistake with its place."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crun_batch.errors import InputError, Mistake
from crun_batch.load.folders import Folders
from crun_batch.load.table.arrays import array_of
from crun_batch.load.table.table import Table, open_table
from crun_batch.records import Row

ROWS = pa.table(
    {
        "key": pa.array(["a", "b", "c", "d", "e"]),
        "text": pa.array(["one", 'two "quoted", with comma', "three\nlines\r\nlong", None, ""]),
        "number": pa.array([1, -2, None, 4, 9007199254740993]),
        "share": pa.array([0.5, -1.25, 3.75, None, 2.5]),
        "good": pa.array([True, False, None, True, False]),
        "code": pa.array(["007", "1.50", "1e3", "NULL", " 5 "]),
    }
)


@dataclass(frozen=True)
class Sample:
    rows: int
    seed: int


@dataclass(frozen=True)
class Csv:
    delimiter: str | None = None
    encoding: str | None = None
    quote: str | None = None


@dataclass(frozen=True)
class Input:
    table: str | list[str] | None = None
    query: str | None = None
    where: str | None = None
    id: str | None = None
    limit: int | None = None
    sample: Sample | None = None
    csv: Csv | None = None
    sheet: str | None = None


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def csv_text(table: pa.Table, delimiter: str) -> str:
    def cell(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        return '"' + value.replace('"', '""') + '"' if isinstance(value, str) else str(value)

    rows = [table.column_names, *([cell(value) for value in row.values()] for row in table.to_pylist())]
    return "".join(delimiter.join(row) + "\n" for row in rows)


def write(table: pa.Table, path: Path) -> Path:
    name = path.name
    if name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=2)
    elif ".csv" in name:
        write_bytes(path, csv_text(table, ",").encode())
    elif ".tsv" in name:
        write_bytes(path, csv_text(table, "\t").encode())
    elif ".json" in name and ".jsonl" not in name:
        write_bytes(path, json.dumps(table.to_pylist(), indent=2 if name.startswith("pretty") else None).encode())
    elif ".jsonl" in name or ".ndjson" in name:
        write_bytes(path, "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode())
    else:
        make = pa.ipc.new_stream if name.startswith("stream") else pa.ipc.new_file
        with make(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(PACKED[path.suffix](data) if path.suffix in PACKED else data)
    return path


def rows_of(table: Table, columns: list[str] | None = None) -> list[Row]:
    return [row for batch in table.rows(columns or table.schema.names) for row in batch]


def ids_of(table: Table) -> list[int | str]:
    return [row.row_id for row in rows_of(table, table.schema.names[:1])]


def column_of(table: Table, name: str) -> list[Any]:
    return [row.values[name] for row in rows_of(table, [name])]


def mistakes_of(spec: Input, folder: Path, frame: object | None = None) -> tuple[Mistake, ...]:
    with pytest.raises(InputError) as caught:
        open_table(spec, folders=Folders(folder), frame=frame)
    return caught.value.mistakes


FORMATS = [
    "rows.csv",
    "rows.csv.gz",
    "rows.csv.zst",
    "rows.tsv",
    "rows.tsv.gz",
    "rows.tsv.zst",
    "rows.jsonl",
    "rows.ndjson",
    "rows.jsonl.gz",
    "rows.jsonl.zst",
    "rows.ndjson.zst",
    "rows.json",
    "pretty.json",
    "rows.json.gz",
    "rows.json.zst",
    "rows.parquet",
    "rows.arrow",
    "stream.arrow",
    "rows.feather",
    "ROWS.PARQUET",
]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "ROWS.PARQUET"])
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    """Types, nulls, empty texts, quotes and line ends come through each format alike, and in order."""
    write(ROWS, tmp_path / name)
    table = open_table(Input(name), folders=Folders(tmp_path))
    assert ROWS.schema == table.schema
    assert [(i, i, row) for i, row in enumerate(ROWS.to_pylist())] == [
        (row.position, row.row_id, dict(row.values)) for row in rows_of(table)
    ]
    assert ("row", pa.int64(), 5, 5, (tmp_path / name,)) == (
        table.id_name,
        table.id_type,
        table.source_rows,
        table.selected_rows,
        table.files,
    )


def test_frames_give_the_same_rows_as_files(tmp_path: Path) -> None:
    """polars eager and lazy, Arrow tables and readers that can be read only once; twice, and with a where."""
    frames = [pl.from_arrow(ROWS), pl.from_arrow(ROWS).lazy(), ROWS, ROWS.to_reader(2)]  # type: ignore[union-attr]
    for frame in frames:
        table = open_table(Input(where="number > 0"), folders=Folders(tmp_path), frame=frame)
        wanted = [row for row in ROWS.to_pylist() if (row["number"] or 0) > 0]
        assert wanted == [dict(row.values) for row in rows_of(table)]
        assert wanted == [dict(row.values) for row in rows_of(table)]
        assert () == table.files


def test_an_object_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (mistake,) = mistakes_of(Input(), tmp_path, frame={"a": [1]})
    assert "dict is no table" in mistake.message


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.Series(["a"], name="text"), "cannot be read"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "Duplicate column names"),
        (pd.DataFrame({"text": pd.arrays.SparseArray([0, 1])}), "Sparse pandas data"),
        (pd.DataFrame({"text": pd.period_range("2020", "2021", freq="Y")}), "`text` holds periods of pandas"),
    ],
)
def test_a_frame_of_pandas_that_arrow_cannot_have_is_refused(frame: object, words: str, tmp_path: Path) -> None:
    """Each was an error of a library's, and periods were sent as numbers since 1970."""
    (mistake,) = mistakes_of(Input(), tmp_path, frame=frame)
    assert ("table", True) == (mistake.key, words in mistake.message)


def test_a_frame_of_a_class_made_of_pandas_has_no_index_either(tmp_path: Path) -> None:
    kind = type("Frame", (pd.DataFrame,), {})
    table = open_table(
        Input(), folders=Folders(tmp_path), frame=kind({"text": ["a"]}, index=pd.Index([7], name="k"))
    )
    assert ["text"] == table.schema.names


def test_an_index_that_is_meant_as_the_id_is_told(tmp_path: Path) -> None:
    """It said that there is no such column, or no row where the index was all there is."""
    for columns in (["k"], ["k", "text"]):
        frame = pd.DataFrame({"k": ["x"], "text": ["a"]}).set_index(columns)
        (mistake,) = mistakes_of(Input(id="k"), tmp_path, frame=frame)
        assert ("input.id", True) == (mistake.key, "frame.reset_index()" in mistake.message)


def test_categories_of_polars_are_texts_wherever_they_stand(tmp_path: Path) -> None:
    """In a frame and in its file, by themselves and nested: Arrow decodes none of them, and they were refused."""
    words = pl.Series(["a", "b", None], dtype=pl.Categorical)
    frame = pl.DataFrame({"one": words, "enum": words.cast(pl.Enum(["a", "b"]))}).with_columns(
        several=pl.concat_list("one", "one"), inside=pl.struct("enum")
    )
    frame.write_ipc(tmp_path / "a.arrow")
    wanted = [{"one": word, "enum": word, "several": [word, word], "inside": {"enum": word}} for word in words]
    for table in (
        open_table(Input(), folders=Folders(tmp_path), frame=frame),
        open_table(Input("a.arrow"), folders=Folders(tmp_path)),
    ):
        assert wanted == [dict(row.values) for row in rows_of(table)]


def test_rows_come_in_batches_with_only_the_columns_asked_for(tmp_path: Path) -> None:
    frame = pa.table({"a": range(3000), "b": range(3000)})
    table = open_table(Input(id="a"), folders=Folders(tmp_path), frame=frame)
    batches = list(table.rows(["b"]))
    assert max(map(len, batches)) <= 1024
    assert list(range(3000)) == [row.position for batch in batches for row in batch]
    assert {"b": 2999} == batches[-1][-1].values
    assert {} == next(table.rows([]))[0].values


def test_an_unknown_column_is_refused_at_once_with_the_nearest(tmp_path: Path) -> None:
    table = open_table(Input(), folders=Folders(tmp_path), frame=ROWS)
    with pytest.raises(InputError) as caught:
        table.rows(["txt"], key="prompt.user")
    (mistake,) = caught.value.mistakes
    assert "prompt.user" == mistake.key
    assert "did you mean `text`?" in mistake.message


def test_nested_and_dated_values_are_plain_python(tmp_path: Path) -> None:
    """Nanoseconds, dictionaries, views and half floats are undone; times stay times."""
    frame = pa.table(
        {
            "list": pa.array([[1, 2], None]),
            "struct": pa.array([{"x": "y"}, None], pa.struct([("x", pa.string_view())])),
            "views": pa.array([["v"], None], pa.large_list(pa.string_view())),
            "times": pa.array([[1_000_001], None], pa.list_(pa.timestamp("ns"))),
            "runs": pa.RunEndEncodedArray.from_arrays([1, 2], ["r", None]),
            "day": pa.array([datetime.date(2024, 5, 1), None]),
            "time": pa.array([1_000_000_001, None], pa.timestamp("ns")),
            "amount": pa.array([Decimal("1.50"), None]),
            "word": pa.array(["x", None]).dictionary_encode(),
            "view": pa.array(["v", None], pa.string_view()),
            "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(range(16)), None], pa.binary(16))),
        }
    )
    table = open_table(Input(where="word is null or view = 'v'"), folders=Folders(tmp_path), frame=frame)
    first, second = rows_of(table)
    assert {
        "list": [1, 2],
        "struct": {"x": "y"},
        "views": ["v"],
        "times": [datetime.datetime(1970, 1, 1, 0, 0, 0, 1000)],
        "runs": "r",
        "day": datetime.date(2024, 5, 1),
        "time": datetime.datetime(1970, 1, 1, 0, 0, 1),
        "amount": Decimal("1.50"),
        "word": "x",
        "view": "v",
        "uuid": "00010203-0405-0607-0809-0a0b0c0d0e0f",
    } == first.values
    assert {None} == set(second.values.values())


def test_a_list_mixes_formats_and_a_glob_is_sorted(tmp_path: Path) -> None:
    """Positions count over all files in order, CSV cells take the types that other files state."""
    (tmp_path / "sub").mkdir()
    write(ROWS.slice(0, 2), tmp_path / "sub/b.parquet")
    write(ROWS.slice(2, 1), tmp_path / "sub/c.csv")
    write(ROWS.slice(3, 2), tmp_path / "a.jsonl")
    table = open_table(Input(["sub/*", "a.jsonl"]), folders=Folders(tmp_path))
    assert ROWS.schema == table.schema
    assert ROWS.to_pylist() == [dict(row.values) for row in rows_of(table)]
    assert ["b.parquet", "c.csv", "a.jsonl"] == [path.name for path in table.files]
    absolute = open_table(Input(str(tmp_path / "sub" / "*.csv")), folders=Folders(Path("/")))
    assert 1 == absolute.source_rows


def test_a_name_with_glob_characters_is_itself(tmp_path: Path) -> None:
    write(ROWS, tmp_path / "rows[1].csv")
    assert 5 == open_table(Input("rows[1].csv"), folders=Folders(tmp_path)).source_rows


def test_columns_that_differ_between_files_are_named_with_their_files(tmp_path: Path) -> None:
    write(ROWS, tmp_path / "a.parquet")
    write(ROWS.drop_columns(["share"]), tmp_path / "b.parquet")
    (missing,) = mistakes_of(Input("*.parquet"), tmp_path)
    assert (str(tmp_path / "b.parquet"), True) == (missing.file, "no column `share`" in missing.message)
    write(ROWS.set_column(3, "share", pa.array(list("abcde"))), tmp_path / "b.parquet")
    (different,) = mistakes_of(Input("*.parquet"), tmp_path)
    assert "`share` is double in" in different.message
    assert f"string in {tmp_path / 'b.parquet'}" in different.message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("none.csv", "there is no file `none.csv` in"),
        ("*.parquet", "no file matches `*.parquet` in"),
        ("folder", "`folder` is a folder; name its files, such as `folder/*.parquet`"),
        (["a.csv", "./a.csv"], "is given twice"),
        ("a.ods", "allowed are .csv, .tsv"),
        ([], "names no file"),
        (None, "give `table` or `query`"),
    ],
)
def test_files_that_are_not_there_are_named(table: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write_bytes(tmp_path / "a.csv", b"x\n1\n")
    write_bytes(tmp_path / "a.ods", b"x")
    assert words in mistakes_of(Input(table), tmp_path)[0].message


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather", "a.csv.gz", "a.jsonl.zst", "a.json.gz"])
def test_damaged_files_are_input_errors_that_name_the_file(name: str, tmp_path: Path) -> None:
    for data in (b"not what it says", b""):
        (tmp_path / name).write_bytes(data)
        assert str(tmp_path / name) == mistakes_of(Input(name), tmp_path)[0].file
    whole = write(ROWS, tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert str(tmp_path / name) == mistakes_of(Input(name), tmp_path)[0].file


def test_every_broken_file_is_reported_at_once(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.csv", b"x,y\n1\n")
    write_bytes(tmp_path / "b.jsonl", b"{}}\n")
    found = mistakes_of(Input(["a.csv", "b.jsonl"]), tmp_path)
    assert [(str(tmp_path / "a.csv"), 2), (str(tmp_path / "b.jsonl"), 1)] == [(m.file, m.line) for m in found]


BROKEN_CSV = [
    (b"x,y\n1,2\n3\n", 3, "column 2 (`y`): the row has 1 cells where the header has 2"),
    (b"x,y\n1,2\n3,4,5\n", 3, "column 3: the row has 3 cells"),
    (b"x,y\n1,2\n3,4,\n", 3, "column 3: the row has 3 cells"),
    (b'x,y\n"a\nb",2\n3,4,5\n', 4, "column 3: the row has 3 cells"),
    (b'x,y\n1,2\n3,"open\n4,5\n', 3, "column 2 (`y`): a quote is opened here and never closed"),
    (b'x,y\n1,"a"b\n', 2, "column 2 (`y`): a quoted cell goes on after its closing quote"),
    (b'x,y\n1,"open\n2,"b"\n3,4\n', 2, "column 2 (`y`): a quoted cell goes on"),
    (b"x,y\n1,caf\xe9\n", 2, "column 2 (`y`): byte 0xe9 is not UTF-8"),
    ("x,y\n1,2\n".encode("utf-16"), 1, "column 1: byte 0xff is not UTF-8"),
    (b"x,y,x\n1,2,3\n", 1, "names `x` more than once"),
    (b"x,y\r1,2\r", 1, "a lone carriage return"),
    (b"", None, "is empty; a header line"),
    (b"\n\n", None, "is empty; a header line"),
]


@pytest.mark.parametrize(("data", "line", "words"), BROKEN_CSV)
def test_a_csv_that_is_not_whole_is_refused_with_line_and_column(
    data: bytes, line: int | None, words: str, tmp_path: Path
) -> None:
    """A row is never padded, cut, or swallowed by a quote of another row."""
    write_bytes(tmp_path / "a.csv", data)
    (mistake,) = mistakes_of(Input("a.csv"), tmp_path)
    assert (str(tmp_path / "a.csv"), line) == (mistake.file, line and mistake.line)
    assert words in mistake.message


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"\xef\xbb\xbfx,y\n1,2\n", [(1, 2)]),
        (b"x,y\r\n1,2\r\n3,4", [(1, 2), (3, 4)]),
        (b"x,y\n1,2\r\n\n3,4\n\n", [(1, 2), (3, 4)]),
        (b'x,y\na,\nb,""\n', [("a", None), ("b", "")]),
        (b'x,y\n a , "q"\n', [(" a ", ' "q"')]),
        (b'x,y\n5" disk,\n', [('5" disk', None)]),
        (b"x,y\nNA,null\n", [("NA", "null")]),
        (b'"x\nx",y\n1,2\n', [(1, 2)]),
        ("x,\n1,\u00fc\n".encode(), [(1, "\u00fc")]),
    ],
)
def test_what_a_csv_has_is_what_a_row_has(data: bytes, rows: list[tuple[Any, ...]], tmp_path: Path) -> None:
    """Byte order mark, CRLF, blank lines, blanks round cells, lone quotes: read as written."""
    write_bytes(tmp_path / "a.csv", data)
    table = open_table(Input("a.csv"), folders=Folders(tmp_path))
    assert rows == [tuple(row.values.values()) for row in rows_of(table)]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-20", ""], pa.int64()),
        (["1", "007"], pa.string()),
        (["9223372036854775807"], pa.int64()),
        (["9223372036854775808"], pa.string()),
        (["+1"], pa.string()),
        (["-0"], pa.string()),
        (["1.5", "-0.25", "2.0"], pa.float64()),
        (["1.5", "1.50"], pa.string()),
        (["1.5", "2"], pa.string()),
        (["1e3"], pa.string()),
        (["nan"], pa.string()),
        (["0.1234567890123456789"], pa.string()),
        (["true", "false"], pa.bool_()),
        (["True"], pa.string()),
        (["true", "1"], pa.string()),
        (["2024-01-01"], pa.string()),
        (["", ""], pa.string()),
    ],
)
def test_a_csv_column_has_a_type_only_if_nothing_is_lost(
    cells: list[str], kind: pa.DataType, tmp_path: Path
) -> None:
    write_bytes(tmp_path / "a.csv", "".join(f"{cell},x\n" for cell in ["c", *cells]).encode())
    table = open_table(Input("a.csv"), folders=Folders(tmp_path))
    assert kind == table.schema.field("c").type
    written = [str(value).lower() if kind == pa.bool_() else str(value) for value in column_of(table, "c")]
    assert [cell or "None" for cell in cells] == written


def test_a_type_is_taken_over_all_csv_files(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.csv", b"c\n" + b"1\n" * 70_000)
    write_bytes(tmp_path / "b.csv", b"c\n007\n")
    table = open_table(Input("*.csv"), folders=Folders(tmp_path))
    assert {"1", "007"} == set(column_of(table, "c"))


def test_a_cell_may_be_larger_than_a_block(tmp_path: Path) -> None:
    large = "word " * 600_000
    write_bytes(tmp_path / "a.csv", f'k,v\n1,"{large}"\n2,x\n'.encode())
    assert [large, "x"] == column_of(open_table(Input("a.csv"), folders=Folders(tmp_path)), "v")


@settings(deadline=None, max_examples=60)
@example(rows=[("true", None)])
@given(
    st.lists(
        st.tuples(*[st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))] * 2),
        min_size=1,
        max_size=8,
    )
)
def test_any_text_comes_through_csv_and_jsonl(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, str | None]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    frame = pa.table(
        {"a": pa.array([row[0] for row in rows], pa.string()), "b": ["x" + (row[1] or "") for row in rows]}
    )
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        table = open_table(Input(str(write(frame, folder / name))), folders=Folders(folder))
        assert frame.to_pylist() == [{k: as_written(v) for k, v in row.values.items()} for row in rows_of(table)]


def as_written(value: Any) -> str | None:
    """A cell's text: a column of `true` and `false` alone is one of truth values, and is written so again."""
    return value if value is None else str(value).lower() if isinstance(value, bool) else str(value)


BATCH_LINES = [
    '{"custom_id": "r-1", "url": "/v1/chat/completions", "body": {"b" : 1.50, "a":"\\u00e9\u00e9" }}',
    '{"body":{"model":"m","temperature":1e-2, "n":123456789012345678901234567890,"x":[ ]},"custom_id":"r-2"}',
    '{"custom_id": "r-3", "body": null}',
]


def test_a_body_in_jsonl_is_delivered_byte_for_byte(tmp_path: Path) -> None:
    """Key order, number forms, escapes and blanks of an OpenAI Batch line's body stay as they are."""
    write_bytes(tmp_path / "a.jsonl", "\r\n".join(BATCH_LINES).encode())
    table = open_table(Input("a.jsonl", id="custom_id"), folders=Folders(tmp_path))
    assert [
        ("r-1", '{"b" : 1.50, "a":"\\u00e9\u00e9" }'),
        ("r-2", '{"model":"m","temperature":1e-2, "n":123456789012345678901234567890,"x":[ ]}'),
        ("r-3", None),
    ] == [(row.row_id, row.values["body"]) for row in rows_of(table, ["body"])]
    assert (pa.string(), pa.string()) == (table.schema.field("body").type, table.id_type)


@pytest.mark.parametrize(
    ("lines", "kind", "values"),
    [
        (['{"c":1}', '{"c":2.5}'], pa.float64(), [1.0, 2.5]),
        (['{"c":1}', "", '{"d":1}', '{"c":null}'], pa.int64(), [1, None, None]),
        (['{"c":1}', '{"c":12345678901234567890}'], pa.string(), ["1", "12345678901234567890"]),
        (['{"c":9007199254740993}', '{"c":0.5}'], pa.string(), ["9007199254740993", "0.5"]),
        (['{"c":true}', '{"c":false}'], pa.bool_(), [True, False]),
        (['{"c":{"x": 1}}', '{"c":[ 1 ]}'], pa.string(), ['{"x": 1}', "[ 1 ]"]),
        (['{"c":null}', "{}"], pa.string(), [None, None]),
        (["\ufeff" + '{"c":"\\n\\ud83d\\ude00"}'], pa.string(), ["\n\U0001f600"]),
    ],
)
def test_a_jsonl_column_has_one_type_over_the_whole_file(
    lines: list[str], kind: pa.DataType, values: list[Any], tmp_path: Path
) -> None:
    write_bytes(tmp_path / "a.jsonl", "\n".join(lines).encode())
    table = open_table(Input("a.jsonl"), folders=Folders(tmp_path))
    assert (kind, values) == (table.schema.field("c").type, column_of(table, "c"))


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ([b'{"c":1}', b'{"c":}'], 2, "is not valid JSON"),
        ([b'{"c":1}', b"[1]"], 2, "must be one JSON object"),
        ([b'{"c":1}', b'{"c":1} {"c":2}'], 2, "is not valid JSON"),
        ([b'{"c":NaN}'], 1, "column `c`: NaN is no JSON"),
        ([b'{"c":{"d":01}}'], 1, "is not valid JSON"),
        ([b'{"c":{"d":"\xff"}}'], 1, "byte 0xff is not UTF-8"),
        ([b'{"c":"\\ud800"}'], 1, "column `c`: \\ud800 is half of a surrogate pair"),
        ([b'{"c":' + b"[" * 5000 + b"]" * 5000 + b"}"], 1, "is not valid JSON"),
        ([b'{"c":' + b'{"[":' * 1000 + b"1" + b"}" * 1000 + b"}"], 1, "is not valid JSON"),
        ([b'{"c":1}', b"{}", b'{"c":"1"}'], 3, "column `c` has a text here and a number in line 1"),
        ([b'{"c":"t"}', b'{"c":{}}'], 2, "an object or array here and a text in line 1"),
        ([b"{}"], None, "without any key"),
    ],
)
def test_a_bad_jsonl_line_is_named(lines: list[bytes], line: int | None, words: str, tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.jsonl", b"\n".join(lines))
    (mistake,) = mistakes_of(Input("a.jsonl"), tmp_path)
    assert (str(tmp_path / "a.jsonl"), line) == (mistake.file, mistake.line)
    assert words in mistake.message


def test_text_in_one_file_and_objects_in_another_are_not_mixed(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.jsonl", b'{"c":"text"}\n')
    write_bytes(tmp_path / "b.jsonl", b'{"c":{}}\n')
    (mistake,) = mistakes_of(Input("*.jsonl"), tmp_path)
    assert "`c` is string in" in mistake.message and "raw JSON in" in mistake.message


def test_the_default_id_counts_before_where_sample_and_limit(tmp_path: Path) -> None:
    frame = pa.table({"n": range(100)})
    table = open_table(Input(where="n % 2 = 1", limit=3), folders=Folders(tmp_path), frame=frame)
    assert [1, 3, 5] == ids_of(table)
    assert (100, 3) == (table.source_rows, table.selected_rows)
    assert [0, 1] == ids_of(open_table(Input(limit=2), folders=Folders(tmp_path), frame=frame))
    assert list(range(100)) == ids_of(open_table(Input(limit=200), folders=Folders(tmp_path), frame=frame))


@settings(deadline=None, max_examples=6)
@given(
    count=st.integers(1, 60),
    more=st.integers(0, 60),
    seed=st.integers(-5, 10**12),
    modulus=st.integers(1, 4),
    id=st.sampled_from([None, "number", "name"]),
)
def test_samples_nest_and_are_the_smallest_hashes(
    count: int, more: int, seed: int, modulus: int, id: str | None
) -> None:
    """The N smallest md5("seed:id") after where, in source order: known without our code, equal everywhere."""
    frame = pa.table({"number": range(100, 200), "name": [f"n-{i}" for i in range(100)]})
    where = f"number % {modulus} = 0"
    spec = Input(where=where, id=id, sample=Sample(count, seed))
    small = ids_of(open_table(spec, folders=Folders(Path()), frame=frame))
    large = ids_of(
        open_table(
            Input(where=where, id=id, sample=Sample(count + more, seed)), folders=Folders(Path()), frame=frame
        )
    )
    every = ids_of(open_table(Input(where=where, id=id), folders=Folders(Path()), frame=frame))
    wanted = sorted(every, key=lambda each: hashlib.md5(f"{seed}:{each}".encode()).hexdigest())[:count]
    assert [each for each in every if each in set(wanted)] == small
    assert set(small) <= set(large)
    table = open_table(Input(where=where, id=id), folders=Folders(Path()), frame=frame)
    assert small == [row.row_id for row in table.random_rows(count, seed, ["name"])]


def test_sample_comes_before_limit(tmp_path: Path) -> None:
    frame = pa.table({"n": range(100)})
    sampled = ids_of(open_table(Input(sample=Sample(10, 7)), folders=Folders(tmp_path), frame=frame))
    assert sampled[:4] == ids_of(
        open_table(Input(sample=Sample(10, 7), limit=4), folders=Folders(tmp_path), frame=frame)
    )


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("number > 1; drop table x", "allowed is one DuckDB predicate"),
        ("number in (select 1); select 2", ""),
        ("number > ", "syntax error"),
        ("number = 1) or (1 = 1", "syntax error"),
        ("", ""),
        ("nmber > 1", "nmber"),
        ("number > 1 order by number", ""),
        ("number = 1, number = 2", "single expression"),
        ("max(number) = 1", "aggregate"),
        ("columns(*) is not null", "COLUMNS(...) is not possible"),
        ("code::int > 1", "Could not convert"),
        ("key in (from frame)", "frame"),
        ("key in (with w as (copy (select 1) to 'stolen.csv') select 'a')", "COPY"),
        ("key in (from query('copy (select 1) to stolen'))", "SELECT"),
        ("key in (from 'none.csv')", "none.csv"),
    ],
)
def test_a_wrong_where_is_an_input_error(where: str, words: str, tmp_path: Path) -> None:
    """No second statement, no file written, no variable of ours seen."""
    frame = ROWS
    (mistake,) = mistakes_of(Input(where=where), tmp_path, frame=frame)
    assert ("input.where", True) == (mistake.key, words.lower() in mistake.message.lower())
    assert [] == list(tmp_path.iterdir())


def test_where_keeps_the_rows_for_which_it_is_true(tmp_path: Path) -> None:
    """Null is not true; a comment, any case of a name, and other files beside the job may be used."""
    write_bytes(tmp_path / "wanted.csv", b"k\nb\nd\n")
    for where, wanted in {
        "share > 0 -- and so on": ["a", "c", "e"],
        "NUMBER < 5 and not good": ["b"],
        "key in (select k from 'wanted.csv')": ["b", "d"],
        "true": list("abcde"),
    }.items():
        table = open_table(Input(where=where, id="key"), folders=Folders(tmp_path), frame=ROWS)
        assert wanted == ids_of(table)


def test_id_and_where_are_reported_together(tmp_path: Path) -> None:
    found = mistakes_of(Input(id="kye", where="nmber > 1"), tmp_path, frame=ROWS)
    assert ["input.id", "input.where"] == [mistake.key for mistake in found]
    assert "did you mean `key`?" in found[0].message


def test_duplicated_ids_are_named_with_files_and_rows(tmp_path: Path) -> None:
    """Also across files, and wherever the selection does not reach: identity is a matter of the source."""
    write_bytes(tmp_path / "a.csv", b"k,v\nx,1\ny,2\nz,3\n")
    write_bytes(tmp_path / "b.jsonl", b'{"k":"w","v":1}\n{"k":"x","v":2}\n{"k":"y","v":2}\n{"k":"x","v":2}\n')
    found = mistakes_of(Input(["a.csv", "b.jsonl"], id="k", limit=1), tmp_path)
    assert [(str(tmp_path / "a.csv"), 0, "input.id"), (str(tmp_path / "a.csv"), 1, "input.id")] == [
        (mistake.file, mistake.row, mistake.key) for mistake in found
    ]
    assert (
        "the id 'x' in column `k` stands also in row 4 (b.jsonl, line 2), row 6 (b.jsonl, line 4)"
        in found[0].message
    )


def test_at_most_five_duplicates_are_shown(tmp_path: Path) -> None:
    found = mistakes_of(Input(id="n"), tmp_path, frame=pa.table({"n": list(range(50)) * 10}))
    assert [0, 1, 2, 3, 4] == [mistake.row for mistake in found]
    assert "row 50, row 100, row 150, row 200 and more" in found[0].message


def test_null_ids_are_named_with_their_rows(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.csv", b"k,v\nx,1\n,2\n" + b",3\n" * 9)
    found = mistakes_of(Input("a.csv", id="k"), tmp_path)
    (mistake,) = found
    assert (1, 3) == (mistake.row, mistake.line)
    assert "is null here, and in row 2, row 3, row 4, row 5 and 5 more at least" in mistake.message
    assert {str(tmp_path / "a.csv")} == {mistake.file for mistake in found}


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (pa.array([3, 1], pa.uint8()), [3, 1]),
        (pa.array([2**64 - 1, 1], pa.uint64()), ["18446744073709551615", "1"]),
        (pa.array(["b", "a"]), ["b", "a"]),
        (pa.array([datetime.date(2024, 1, 2), datetime.date(2024, 1, 1)]), ["2024-01-02", "2024-01-01"]),
        (pa.array([Decimal("1.50"), Decimal("2.00")]), ["1.50", "2.00"]),
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
    ],
)
def test_ids_are_whole_numbers_or_text(values: pa.Array, ids: list[int | str], tmp_path: Path) -> None:
    table = open_table(Input(id="k"), folders=Folders(tmp_path), frame=pa.table({"k": values}))
    assert ("k", ids) == (table.id_name, ids_of(table))
    assert (pa.int64() if isinstance(ids[0], int) else pa.string()) == table.id_type


@pytest.mark.parametrize("values", [[1.5, 2.5], [True, False], [[1], [2]], [b"a", b"b"], [{"a": 1}, {"a": 2}]])
def test_other_ids_are_refused(values: list[Any], tmp_path: Path) -> None:
    (mistake,) = mistakes_of(Input(id="k"), tmp_path, frame=pa.table({"k": values}))
    assert "an id is a whole number or text" in mistake.message


def test_a_query_joins_files_beside_the_job(tmp_path: Path) -> None:
    """Its rows keep their order and positions however often they are read, and it is computed once."""
    write(ROWS, tmp_path / "a.parquet")
    write_bytes(tmp_path / "b.csv", b"key,label\na,x\nc,z\nb,y\n")
    query = (
        "select key, label, number::hugeint as big, uuid() as u"
        " from 'a.parquet' join 'b.csv' using (key) order by key desc"
    )
    table = open_table(Input(query=query, id="key", where="label <> 'y'"), folders=Folders(tmp_path))
    first, second = rows_of(table), rows_of(table)
    assert first == second
    assert [("c", 0, "z"), ("a", 2, "x")] == [(row.row_id, row.position, row.values["label"]) for row in first]
    assert table.fingerprint() == table.fingerprint()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("select 1 as k; select 2", "must be one statement, found 2"),
        ("", "must be one statement, found 0"),
        ("copy (select 1) to 'stolen.csv'", "only a SELECT"),
        ("with w as (copy (select 1 as k) to 'stolen.csv') select 1 as k", "may only select; found COPY"),
        ("create table t as select 1", "only a SELECT"),
        ("attach 'stolen.db'", "only a SELECT"),
        ("selec 1", "syntax error"),
        ("select * from 'none.parquet'", "none.parquet"),
        ("select 'a'::int as k", "Could not convert"),
        ("select error('late') as k from range(10000)", "late"),
        ("select * from ROWS", "ROWS"),
    ],
)
def test_a_wrong_query_is_an_input_error(query: str, words: str, tmp_path: Path) -> None:
    (mistake,) = mistakes_of(Input(query=query, id="k"), tmp_path)
    assert ("input.query", True) == (mistake.key, words.lower() in mistake.message.lower())
    assert [] == list(tmp_path.iterdir())


def test_a_query_needs_an_id(tmp_path: Path) -> None:
    (mistake,) = mistakes_of(Input(query="select 1 as k"), tmp_path)
    assert "input.id" == mistake.key


def test_a_folder_that_duckdb_cannot_search_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "a,b"
    folder.mkdir()
    path = write_bytes(folder / "a.csv", b"k\n1\n")
    (mistake,) = mistakes_of(Input(query="from 'a.csv'", id="k"), folder)
    assert "write the absolute path of `a.csv`" in mistake.message
    assert ids_of(open_table(Input(query=f"from '{path}'", id="k"), folders=Folders(folder))) == [1]
    (where,) = mistakes_of(Input("a.csv", where="k in (from 'a.csv')"), folder)
    assert "input.where" == where.key


def test_a_query_never_reads_another_file_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB looks into the current directory first; the job means the folder of the job file."""
    here, job = tmp_path / "here", tmp_path / "job"
    here.mkdir()
    job.mkdir()
    monkeypatch.chdir(here)
    write_bytes(job / "a.csv", b"k\njob\n")
    spec = Input(query="select * from 'a.csv'", id="k")
    assert ["job"] == ids_of(open_table(spec, folders=Folders(job)))
    write_bytes(here / "a.csv", b"k\nhere\n")
    for wrong in (spec, Input(query="from read_csv(['a.csv'])", id="k")):
        (mistake,) = mistakes_of(wrong, job)
        assert "also names a file in the current directory" in mistake.message
    assert ["job"] == ids_of(open_table(Input(query=f"select * from '{job}/a.csv'", id="k"), folders=Folders(job)))
    assert ["here"] == ids_of(open_table(spec, folders=Folders(here)))


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        (Input("empty.csv"), "input.table"),
        (Input("a.csv", where="x > 5"), "input.where"),
        (Input("a.csv", limit=0), "input.limit"),
    ],
)
def test_nothing_to_do_is_a_mistake(spec: Input, key: str, tmp_path: Path) -> None:
    write_bytes(tmp_path / "empty.csv", b"x\n")
    write_bytes(tmp_path / "a.csv", b"x\n1\n")
    (mistake,) = mistakes_of(spec, tmp_path)
    assert key == mistake.key


def finished(ids: list[str]) -> pa.RecordBatchReader:
    table = pa.table({"id": pa.array(ids, pa.string()), "variant": range(len(ids))})
    return table.to_reader(7)


def positions(batches: Iterator[pa.RecordBatch]) -> list[tuple[int, int]]:
    return sorted((row["position"], row["variant"]) for batch in batches for row in batch.to_pylist())


def test_finished_units_find_their_positions(tmp_path: Path) -> None:
    """By the id's text; ids that are no longer in the source are left out, one id may be finished many times."""
    frame = pa.table({"n": range(1000, 2000), "s": [f"s-{i}" for i in range(1000)]})
    by_number = open_table(Input(id="n", limit=1), folders=Folders(tmp_path), frame=frame)
    assert [(5, 0), (5, 3), (999, 1)] == positions(
        by_number.positions_of(finished(["1005", "1999", "77", "1005"]))
    )
    by_text = open_table(Input(id="s"), folders=Folders(tmp_path), frame=frame)
    assert [(i, i) for i in range(1000)] == positions(
        by_text.positions_of(finished([f"s-{i}" for i in range(1000)]))
    )
    by_row = open_table(Input(), folders=Folders(tmp_path), frame=frame)
    known = ["999", "0", "1000", "s-1", "-1", "01", "", "9" * 30, "0"]
    assert [(0, 1), (0, 8), (999, 0)] == positions(by_row.positions_of(finished(known)))


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    """A changed cell, in a file or a frame, is another fingerprint; another name or cut into batches is not."""
    path = write(ROWS, tmp_path / "a.csv")
    first = open_table(Input("a.csv"), folders=Folders(tmp_path)).fingerprint()
    path.rename(tmp_path / "b.csv")
    assert first == open_table(Input("b.csv", limit=1), folders=Folders(tmp_path)).fingerprint()
    write_bytes(tmp_path / "b.csv", (tmp_path / "b.csv").read_bytes().replace(b"one", b"two"))
    assert first != open_table(Input("b.csv"), folders=Folders(tmp_path)).fingerprint()
    framed = [
        open_table(Input(), folders=Folders(tmp_path), frame=frame).fingerprint()
        for frame in (ROWS, ROWS.to_reader(2))
    ]
    assert framed[0] == framed[1]
    changed = ROWS.set_column(0, "key", pa.array(list("abcdf")))
    assert framed[0] != open_table(Input(), folders=Folders(tmp_path), frame=changed).fingerprint()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.arrow"])
def test_a_file_that_changes_under_a_run_is_noticed(name: str, tmp_path: Path) -> None:
    table = open_table(Input(str(write(ROWS, tmp_path / name))), folders=Folders(tmp_path))
    (tmp_path / "new").mkdir()
    write(ROWS.slice(1), tmp_path / "new" / name).replace(tmp_path / name)
    for reading in (lambda: rows_of(table), table.fingerprint):
        with pytest.raises(InputError, match="was changed while it was in use"):
            reading()
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match="can no longer be read"):
        rows_of(table)


def test_an_error_of_ours_comes_through_the_engine_unchanged(tmp_path: Path) -> None:
    table = open_table(Input(str(write(ROWS, tmp_path / "a.csv")), id="key"), folders=Folders(tmp_path))
    write(ROWS.slice(1), tmp_path / "a.csv")
    with pytest.raises(InputError, match="was changed while it was in use"):
        positions(table.positions_of(finished(["a"])))


def test_a_value_that_python_cannot_hold_is_named(tmp_path: Path) -> None:
    years = pa.array([0, 10**18], pa.timestamp("us"))
    table = open_table(Input(), folders=Folders(tmp_path), frame=pa.table({"t": years}))
    with pytest.raises(InputError) as caught:
        rows_of(table)
    assert (1, True) == (caught.value.mistakes[0].row, "column `t`" in caught.value.mistakes[0].message)


def test_another_thread_may_read_what_this_one_opened(tmp_path: Path) -> None:
    write(ROWS, tmp_path / "a.parquet")
    table = open_table(Input("a.parquet", where="number is not null", id="key"), folders=Folders(tmp_path))
    batches = table.rows(["text"])
    found: list[Row] = []
    thread = threading.Thread(target=lambda: found.extend(row for batch in batches for row in batch))
    thread.start()
    thread.join()
    assert ["a", "b", "d", "e"] == [row.row_id for row in found]


def test_reading_holds_only_a_few_batches(tmp_path: Path) -> None:
    """250,000 rows in one piece: Arrow never holds all of the 50 MB of text."""
    frame = pl.DataFrame({"text": [f"{i:06d}" * 33 for i in range(250_000)]})
    writers = {".parquet": frame.write_parquet, ".csv": frame.write_csv, ".arrow": frame.write_ipc}
    for name in ("a.parquet", "a.csv", "a.arrow"):
        path = tmp_path / name
        writers[path.suffix](path)
    del frame, writers
    for name in ("a.parquet", "a.csv", "a.arrow"):
        before = pa.total_allocated_bytes()
        table = open_table(Input(name), folders=Folders(tmp_path))
        peak = rows = 0
        for batch in table.rows(["text"]):
            rows += len(batch)
            peak = max(peak, pa.total_allocated_bytes() - before)
        assert 250_000 == rows
        assert peak < 45_000_000


def _narrow(width: Literal[16, 32]) -> st.SearchStrategy[tuple[pa.DataType, list[float | None]]]:
    kind = pa.float16() if width == 16 else pa.float32()
    return st.tuples(st.just(kind), st.lists(st.floats(width=width) | st.none(), min_size=1))


@given(_narrow(32) | _narrow(16))
@example((pa.float32(), [0.1, 3.14, 1e-7, None, 16777216.0, 3.4028234663852886e38]))
@example((pa.float16(), [0.1, 3.14, 6e-8, None, 65504.0, 1.001, 2049.0]))
@settings(max_examples=100, deadline=None)
def test_a_narrow_float_is_the_shortest_text_that_reads_back_as_it(
    typed: tuple[pa.DataType, list[float | None]],
) -> None:
    """As numpy writes it, in the column itself and within lists, structs and maps; of 32 and of 16 bits."""
    kind, values = typed
    to_narrow = np.float16 if kind == pa.float16() else np.float32
    given_values = [None if value is None else to_narrow(value) for value in values]
    kinds = {
        "alone": pa.array(given_values, kind),
        "in_list": pa.array([[value] for value in given_values], pa.list_(kind)),
        "in_fixed_list": pa.array([[value] for value in given_values], pa.list_(kind, 1)),
        "in_struct": pa.array([{"x": value} for value in given_values], pa.struct([("x", kind)])),
        "in_map": pa.array([[("x", value)] for value in given_values], pa.map_(pa.string(), kind)),
    }
    table = open_table(Input(), folders=Folders(Path()), frame=pa.table(kinds))
    shortest = [None if value is None else float(str(value)) for value in given_values]
    read: list[Any] = [row.values for batch in table.rows(tuple(kinds)) for row in batch]
    read_back = [None if row["alone"] is None else to_narrow(row["alone"]) for row in read]
    assert list(map(repr, given_values)) == list(map(repr, read_back))
    for value, row in zip(shortest, read, strict=True):
        if kind == pa.float32():
            assert repr(value) == repr(row["alone"])
        elif value is not None and math.isfinite(value):
            assert float(f"{row['alone']:.5g}") == row["alone"]
        inside = [row["in_list"][0], row["in_fixed_list"][0], row["in_struct"]["x"], dict(row["in_map"])["x"]]
        assert [repr(row["alone"])] * 4 == [repr(value) for value in inside]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32()])
def test_a_narrow_float_of_a_parquet_file_is_what_was_written(tmp_path: Path, kind: pa.DataType) -> None:
    narrow = np.float16 if kind == pa.float16() else np.float32
    numbers = pa.array([None, *(narrow(text) for text in ("0.1", "3.14", "0.7"))], kind)
    pq.write_table(pa.table({"x": numbers}), tmp_path / "narrow.parquet")
    table = open_table(Input(table="narrow.parquet"), folders=Folders(tmp_path))
    assert [None, 0.1, 3.14, 0.7] == [row.values["x"] for batch in table.rows(("x",)) for row in batch]


KINDS = {
    pa.null(): st.none(),
    pa.string(): st.text(st.characters(exclude_categories=["Cs"])),
    pa.bool_(): st.booleans(),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(data=st.data())
def test_arrays_of_values_are_those_that_arrow_makes(kind: pa.DataType, data: st.DataObject) -> None:
    """Whatever the values, the array is the one that pa.array makes, nulls and emptiness too."""
    values = data.draw(st.lists(st.none() | KINDS[kind]))
    made = array_of(values, kind)
    made.validate(full=True)
    assert pa.array(values, kind).equals(made)
    assert values.count(None) == made.null_count


def test_a_jsonl_line_of_many_brackets_need_not_be_deep(tmp_path: Path) -> None:
    """Those in texts, and those beside each other, do not nest."""
    cells = [b'{"c":[' + b",".join([b"[]"] * 2000) + b"]}", b'{"c":["' + b'[\\"{' * 2000 + b'"]}']
    write_bytes(tmp_path / "a.jsonl", b"\n".join(cells))
    table = open_table(Input("a.jsonl"), folders=Folders(tmp_path))
    assert [0, 1] == [row.position for batch in table.rows(["c"]) for row in batch]
