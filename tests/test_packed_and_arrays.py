"""Laws of packed texts and JSON arrays: the rows of the plain file, and every damage with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_table import PACKED, Input, column_of, mistakes_of, rows_of, write_bytes

from crun_batch.load.folders import Folders
from crun_batch.load.table import json_array
from crun_batch.load.table import text as table_text
from crun_batch.load.table.table import open_table

CELLS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
NESTED = st.recursive(
    CELLS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6
)


@given(
    texts=st.lists(st.text(), min_size=1, max_size=6),
    nested=st.lists(st.dictionaries(st.text(), NESTED, max_size=3), min_size=6, max_size=6),
    piece=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_an_array_has_the_rows_of_the_same_objects_in_lines(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    nested: list[Any],
    piece: int,
    indent: int | None,
    ascii_only: bool,
) -> None:
    """However the array is laid out and wherever a piece of the file ends, inside a character or an escape too."""
    folder = tmp_path_factory.mktemp("array")
    rows = [{"text": text, "body": body} for text, body in zip(texts, nested, strict=False)]
    dumped = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    (folder / "a.json").write_bytes(dumped.encode("utf-8", "surrogatepass"))
    lines = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    (folder / "a.jsonl").write_bytes(lines.encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_PIECE_BYTES", piece)
        array = open_table(Input("a.json"), folders=Folders(folder))
        found = rows_of(array)
    wanted = open_table(Input("a.jsonl"), folders=Folders(folder))
    assert wanted.schema == array.schema
    assert column_of(wanted, "text") == [row.values["text"] for row in found]
    bodies = [json.loads(str(row.values["body"])) for row in found]
    assert [json.loads(text) for text in column_of(wanted, "body")] == bodies


def test_an_element_is_delivered_byte_for_byte(tmp_path: Path) -> None:
    """Key order, number forms and white space of a nested value, line ends among it too."""
    body = '{"z":1.50,\n   "a": [1e3, "\\u00e9"]}'
    write_bytes(tmp_path / "a.json", f'[ {{"body": {body}}} ]'.encode())
    assert [body] == column_of(open_table(Input("a.json"), folders=Folders(tmp_path)), "body")


@pytest.mark.parametrize(
    ("data", "line", "row", "words"),
    [
        (b"", None, None, "is empty; an array of objects is needed"),
        (b'{"a": [{"b": 1}]}', None, None, "is one object, not an array of objects; write [{...}, {...}]"),
        (b'{"a": 1}\n{"a": 2}\n', None, None, "its name ends in .jsonl"),
        (b"a,b\n1,2\n", None, None, "must be an array of objects"),
        (b'[{"a": 1},\n{"a": 2}', 2, 2, "ends within its array"),
        (b'[{"a": 1},\n{"a": "cut', 2, 1, "ends within its array"),
        (b'[{"a": 1},\n', 2, 1, "ends within its array"),
        (b'[{"a": 1}\n{"a": 2}]', 2, 1, "a comma is missing"),
        (b'[{"a": 1},\n]', 2, 1, "a comma stands before the array's end"),
        (b'[{"a": 1}]\n[', 2, 1, "goes on after the end of its array"),
        (b'[{"a": 1},\n[2]]', 2, 1, "each element must be one JSON object"),
        (b'[{"a": 1},\n"x"]', 2, 1, "each element must be one JSON object"),
        (b'[{"a": 1},\n{"a":\n nil, "long": "enough to go on"}]', 3, 1, "column `a`: is not valid JSON"),
        (b'[{"a": 1},\n{"a": }]', 2, 1, "column `a`: is not valid JSON: Expecting value"),
        (b'[{"a": 1},\n{"a": 2, }]', 2, 1, "column `a`: is not valid JSON"),
        (b'[{"a": 1},\n{"a": NaN}]', 2, 1, "column `a`: NaN is no JSON; write null instead"),
        (b'[{"a": 1},\n{"a": "\xff"}]', 2, None, "byte 0xff is not UTF-8"),
        (b'[{"a": ' + b"[" * 100_000, 1, 0, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_an_array_is_named(
    data: bytes, line: int | None, row: int | None, words: str, tmp_path: Path
) -> None:
    write_bytes(tmp_path / "a.json", data)
    (mistake,) = mistakes_of(Input("a.json"), tmp_path)
    assert words in mistake.message
    assert (str(tmp_path / "a.json"), line, row) == (mistake.file, mistake.line, mistake.row)


def test_an_array_without_elements_has_no_rows(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.json", b" [ ] ")
    assert "the table has no rows" in mistakes_of(Input("a.json"), tmp_path)[0].message


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
@pytest.mark.parametrize("packed", PACKED)
def test_a_packed_file_that_is_cut_or_misnamed_is_refused(suffix: str, packed: str, tmp_path: Path) -> None:
    """Cut anywhere it is no shorter table; under a name without its packing it is told what it is."""
    text = {".json": b'[{"a": 1}]', ".jsonl": b'{"a": 1}\n' * 500}.get(suffix, b"a\n" + b"1\n" * 500)
    whole = write_bytes(tmp_path / f"a{suffix}{packed}", text).read_bytes()
    assert open_table(Input(f"a{suffix}{packed}"), folders=Folders(tmp_path)).source_rows
    for end in (len(whole) - 1, len(whole) // 2, 6):
        (tmp_path / f"a{suffix}{packed}").write_bytes(whole[:end])
        (mistake,) = mistakes_of(Input(f"a{suffix}{packed}"), tmp_path)
        assert (str(tmp_path / f"a{suffix}{packed}"), True) == (mistake.file, "is not a whole" in mistake.message)
    (tmp_path / f"b{suffix}").write_bytes(whole)
    (mistake,) = mistakes_of(Input(f"b{suffix}"), tmp_path)
    assert f"let its name end in {packed}" in mistake.message


def test_a_packed_file_of_another_encoding_that_is_cut_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress("a\n1\n2\n".encode("utf-16") * 50)
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    spec = Input("a.csv.gz", csv=Csv16())  # type: ignore[arg-type]
    assert "is not a whole gzip file" in mistakes_of(spec, tmp_path)[0].message


class Csv16:
    delimiter = quote = None
    encoding = "utf-16"


def test_packed_pieces_one_after_another_are_one_file(tmp_path: Path) -> None:
    """As `cat a.zst b.zst` and a parallel gzip make them."""
    for packed, compress in PACKED.items():
        (tmp_path / f"a.csv{packed}").write_bytes(compress(b"a\n1\n") + compress(b"2\n"))
        assert [1, 2] == column_of(open_table(Input(f"a.csv{packed}"), folders=Folders(tmp_path)), "a")


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.csv.gz", "a.json.gz"])
def test_a_file_that_unpacks_into_one_endless_record_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held is one record, so that has a bound; however much a file unpacks to."""
    monkeypatch.setattr(table_text, "MOST_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr(json_array, "MOST_RECORD_BYTES", 1 << 20)
    start = b'[{"a": "' if ".json." in name else b"a"
    write_bytes(tmp_path / name, start + b" " * (6 << 20))
    (mistake,) = mistakes_of(Input(name), tmp_path)
    assert ("so this is no table of prompts" in mistake.message, 1) == (True, mistake.line)


def test_zstd_of_the_test_is_zstd() -> None:
    assert b"\x28\xb5\x2f\xfd" == pa.compress(b"x", "zstd", asbytes=True)[:4]
