"""Text tables as people have them: separated, encoded and quoted otherwise, or with cells that are no JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crun_batch.errors import InputError, Mistake
from crun_batch.load.folders import Folders
from crun_batch.load.job.sections import InputSpec
from crun_batch.load.table.json_damage import repaired
from crun_batch.load.table.table import open_table

CELLS = [["id", "text"], ["1", "hello, you; all|of\tit"], ["2", 'say "é"'], ["3", "two\nlines"]]


def opened(folder: Path, **keys: Any) -> list[tuple[Any, ...]]:
    """All rows of the table."""
    table = open_table(InputSpec(**keys), folders=Folders(folder))
    return [tuple(row.values.values()) for rows in table.rows(table.schema.names) for row in rows]


def refusals(folder: Path, **keys: Any) -> list[Mistake]:
    with pytest.raises(InputError) as caught:
        opened(folder, **keys)
    return list(caught.value.mistakes)


def written(delimiter: str, quote: str = '"') -> str:
    def cell(text: str) -> str:
        return quote + text.replace(quote, quote * 2) + quote

    return "".join(delimiter.join(map(cell, row)) + "\n" for row in CELLS)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_what_input_csv_names_is_how_the_file_is_read(
    delimiter: str, quote: str, encoding: str, suffix: str, tmp_path: Path
) -> None:
    """Every delimiter, quote and encoding gives the same rows, and a row's line is where it begins."""
    import gzip

    data = written(delimiter, quote).encode(encoding)
    path = tmp_path / f"t{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    keys = {"table": path.name, "csv": {"delimiter": delimiter, "encoding": encoding, "quote": quote}}
    assert [(1, CELLS[1][1]), (2, CELLS[2][1]), (3, CELLS[3][1])] == opened(tmp_path, **keys)
    source = open_table(InputSpec(**keys), folders=Folders(tmp_path)).source
    assert [2, 3, 4] == [source.line(position) for position in range(3)]


def test_without_quotes_every_character_is_a_cell_s(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('id\ttext\n1\t"so" he said\n2\ta " b\n')
    assert [(1, '"so" he said'), (2, 'a " b')] == opened(tmp_path, table="t.tsv", csv={"quote": "none"})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "id;text\n1;a, b\n", 'by semicolons, not by commas, it seems; write csv: {delimiter: ";"}'),
        ("t.csv", "id;text\n1;hello\n2;a\n", "semicolons"),
        ("t.csv", "id|text\n1|hello\n", "pipes"),
        ("t.csv", "id\ttext\n1\thello\n", 'by tabs, not by commas, it seems; write csv: {delimiter: "\\t"}'),
        ("t.tsv", "id,text\n1,hello\n", "separated by commas, not by tabs"),
        ("t.csv", "id;a,b;c\n1;x;y\n", "semicolons"),
    ],
)  # fmt: skip
def test_another_delimiter_is_recognised_and_its_key_named(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    """It is never guessed: the refusal names what separates the cells and what to write."""
    (tmp_path / name).write_text(text)
    (mistake,) = refusals(tmp_path, table=name)
    assert (1, "input.csv.delimiter") == (mistake.line, mistake.key)
    assert words in mistake.message


def test_a_delimiter_that_is_named_is_believed(tmp_path: Path) -> None:
    """One column whose cells all hold a semicolon can be read as such."""
    (tmp_path / "t.csv").write_text("id;text\n1;a\n")
    assert [("1;a",)] == opened(tmp_path, table="t.csv", csv={"delimiter": ","})


@pytest.mark.parametrize(
    ("data", "csv", "line", "row", "words"),
    [
        (b"id,text\n1,a\n2,caf\xe9\n", {}, 3, 1, "column 2 (`text`): byte 0xe9 is not UTF-8; save"),
        (b"id,text\n1,a\n2,caf\xe9\n", {}, 3, 1, "input.csv.encoding (cp1252"),
        ("id,text\n1,a\n".encode("utf-16"), {}, 1, None, "input.csv.encoding (utf-16)"),
        (b"id,text\n1,caf\x81\n", {"encoding": "cp1252"}, 2, 0, "is not cp1252; write another input.csv.encoding"),
        (b"\xff\xfei\x00\n\x00\x00\xd8", {"encoding": "utf-16"}, 2, 0, "is not utf-16"),
        (b"sep=;\nid;text\n1;a\n", {}, 1, None, "is a note for Excel and no header"),
        (b"id,text\n1,a\n2,b,c\n", {}, 3, 1, "the row has 3 cells where the header has 2"),
    ],
)  # fmt: skip
def test_bad_bytes_and_cells_name_line_row_and_column(
    data: bytes, csv: dict[str, str], line: int, row: int | None, words: str, tmp_path: Path
) -> None:
    """`line` counts from 1 in the file, `row` from 0 over all files, as everywhere."""
    (tmp_path / "t.csv").write_bytes(data)
    mistake = refusals(tmp_path, table="t.csv", csv=csv)[0]
    assert (line, row) == (mistake.line, mistake.row)
    assert words in mistake.message


def test_rows_are_counted_one_way_for_bad_bytes_and_duplicates(tmp_path: Path) -> None:
    """The same row of the second file has the same number, whatever is wrong with it."""
    (tmp_path / "a.csv").write_bytes(b"id\n1\n2\n")
    (tmp_path / "b.csv").write_bytes(b"id\n3\n\n\xe9\n")
    (bad,) = refusals(tmp_path, table=["a.csv", "b.csv"])
    assert (4, 3) == (bad.line, bad.row)
    (tmp_path / "b.csv").write_bytes(b"id\n3\n\n3\n")
    (twice,) = refusals(tmp_path, table=["a.csv", "b.csv"], id="id")
    assert (2, 2) == (twice.line, twice.row)
    assert "stands also in row 3 (b.csv, line 4)" in twice.message


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("NaN", "NaN is no JSON; write null instead"),
        ("Infinity", "Infinity is no JSON; write null instead"),
        ("-Infinity", "-Infinity is no JSON; write null instead"),
        ('{"deep": [1, NaN]}', "NaN is no JSON"),
        (r'"x\ud83d y"', r"\ud83d is half of a surrogate pair, which is no character; write \ufffd instead"),
        (r'"\ude00"', r"\ude00 is half of a surrogate pair"),
        (r'{"\ud83d": 1}', r"\ud83d is half"),
    ],
)
def test_a_cell_that_is_no_json_is_named_and_its_row_can_be_left_out(
    cell: str, words: str, tmp_path: Path
) -> None:
    """Cause, line, row, column and what to write; `input.where` leaves the row out, the file stays as it is."""
    (tmp_path / "t.jsonl").write_text(
        f'{{"id": 1, "c": null}}\n\n{{"id": 2, "c": {cell}}}\n{{"id": 3, "c": null}}\n'
    )
    (mistake,) = refusals(tmp_path, table="t.jsonl", id="id")
    assert (3, 1) == (mistake.line, mistake.row)
    assert mistake.message.startswith(f"column `c`: {words}")
    assert [(1, None), (3, None)] == opened(tmp_path, table="t.jsonl", id="id", where="id <> 2")


def test_many_such_cells_are_told_by_their_number(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"c": NaN}\n' * 30)
    assert [*range(5), None] == [mistake.row for mistake in refusals(tmp_path, table="t.jsonl")]
    assert refusals(tmp_path, table="t.jsonl")[-1].message.startswith("25 cells more are like this")


def test_bad_bytes_of_a_line_name_the_column(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b'{"id": 1, "text": "caf\xe9"}\n')
    (mistake,) = refusals(tmp_path, table="t.jsonl")
    assert (1, 0) == (mistake.line, mistake.row)
    assert mistake.message.startswith("column `text`: byte 0xe9 is not UTF-8")


def test_a_document_over_many_lines_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": 1}, indent=1))
    (mistake,) = refusals(tmp_path, table="t.jsonl")
    assert "each line must be one JSON object; this is one document over many lines" in mistake.message


VALUES = st.recursive(
    st.floats() | st.text(st.characters()) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=6,
)


def whole(value: Any) -> Any:
    """The value as it should be read after mending."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, str):
        return "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in value)
    if isinstance(value, list):
        return [whole(each) for each in value]
    return {whole(key): whole(each) for key, each in value.items()} if isinstance(value, dict) else value


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_mending_replaces_what_is_no_json_and_nothing_else(value: Any) -> None:
    """What Python's json module writes comes back with null and U+FFFD for what no JSON can hold."""
    line = json.dumps(value).encode()
    pairs = json.loads(line)  # a high and a low half that meet are one character
    if len(str(whole(pairs))) and _distinct_keys(pairs):
        assert whole(pairs) == json.loads(repaired(line))


def _distinct_keys(value: Any) -> bool:
    if isinstance(value, dict):
        return len({whole(key) for key in value}) == len(value) and all(map(_distinct_keys, value.values()))
    return all(map(_distinct_keys, value)) if isinstance(value, list) else True


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"query": "select *\nfrom 't.csv'\nwher id > 1", "id": "id"}, "LINE 3: wher id > 1\n             ^"),
        (
            {"table": "t.csv", "where": "id > 1\nand text = 'x' 3"},
            "LINE 2: and text = 'x' 3\n                       ^",
        ),
    ],
)
def test_a_mistake_in_sql_shows_its_line(keys: dict[str, str], line: str, tmp_path: Path) -> None:
    """The line of what the job says, counted in it, with a caret below the place."""
    (tmp_path / "t.csv").write_text("id,text\n1,a\n")
    (mistake,) = refusals(tmp_path, **keys)
    assert mistake.message.split("LINE")[0].endswith("\n")
    shown, caret = mistake.message.split("\n")[1:]
    assert line.split("\n") == [shown, caret.rstrip("^") + "^"]
