"""Laws of workbooks: the rows of the same table as Parquet; no cell without a value passes for an empty one."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_table import ROWS, Input, column_of, mistakes_of, rows_of
from xlsx_kit import MAIN, Xml, write_xlsx

from crun_batch.load.folders import Folders
from crun_batch.load.table import workbook
from crun_batch.load.table.table import Table, open_table
from crun_batch.load.table.workbook import column_letters, column_number, format_kind

CALCULATED = '<c r="@"><f>1+2</f><v>3</v></c>'


def opened(folder: Path, **keys: Any) -> Table:
    return open_table(Input("a.xlsx", **keys), folders=Folders(folder))


def lists(table: pa.Table) -> list[list[Any]]:
    return [table.column_names, *([*row.values()] for row in table.to_pylist())]


def test_a_sheet_has_the_rows_of_every_other_format(tmp_path: Path) -> None:
    """Types, nulls, empty texts, quotes, line ends: as the same table has them in CSV, JSON and Parquet."""
    write_xlsx(tmp_path / "a.xlsx", {"Reviews": lists(ROWS)})
    table = opened(tmp_path, sheet="Reviews")
    assert ROWS.schema == table.schema
    assert ROWS.to_pylist() == [dict(row.values) for row in rows_of(table)]
    assert list(range(5)) == [row.row_id for row in rows_of(table)]
    assert ((tmp_path / "a.xlsx",), 64) == (table.files, len(table.fingerprint()))


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\t\n\r")) | st.just("_x0041_")
COLUMNS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): TEXTS,
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.5),
    pa.bool_(): st.booleans(),
    pa.date32(): st.dates(datetime.date(1900, 3, 1), datetime.date(9999, 12, 31)),
    pa.timestamp("us"): st.datetimes(datetime.datetime(1900, 3, 1), datetime.datetime(2200, 1, 1)).map(
        lambda moment: moment.replace(microsecond=0)
    ),
    pa.time64("us"): st.times().map(lambda time: time.replace(microsecond=0)),
    pa.duration("us"): st.integers(0, 10**8).map(lambda seconds: datetime.timedelta(seconds=seconds)),
}


@given(data=st.data(), kinds=st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=100)
def test_any_table_is_the_same_as_parquet(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kinds: list[pa.DataType]
) -> None:
    folder = tmp_path_factory.mktemp("xlsx")
    count = data.draw(st.integers(1, 5))
    columns = [data.draw(st.lists(COLUMNS[kind], min_size=count, max_size=count)) for kind in kinds]
    if pa.float64() in kinds and all(abs(number) > 2**52 for number in columns[kinds.index(pa.float64())]):
        return
    names = [f"column {number}" for number in range(len(kinds))]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    table = pa.table(arrays, names=names)
    pq.write_table(table, folder / "a.parquet")
    write_xlsx(folder / "a.xlsx", {"S": lists(table)})
    wanted = rows_of(open_table(Input("a.parquet"), folders=Folders(folder)))
    found = opened(folder)
    assert table.schema.names == found.schema.names
    assert [row.values for row in wanted] == [row.values for row in rows_of(found)]


def test_blank_rows_are_no_rows_and_columns_may_begin_anywhere(tmp_path: Path) -> None:
    """A row is told by the number that it has in the sheet."""
    rows = [
        [],
        [None, "n", "t"],
        [],
        [None, 1, "a"],
        [None, None, None],
        [None, 2, "b"],
        [Xml('<c r="@" s="1"/>')],
    ]
    write_xlsx(tmp_path / "a.xlsx", {"S": rows})
    table = opened(tmp_path)
    assert [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}] == [dict(row.values) for row in rows_of(table)]
    assert [4, 6] == [table.source.line(place) for place in range(2)]


def test_shared_texts_rich_ones_and_saved_values_of_formulas(tmp_path: Path) -> None:
    """Runs of a rich text are one text, readings (phonetic) are none of it; `str` is what a formula gave."""
    shared = ["<si><t>plain</t></si>", "<si><r><t>ri</t></r><r><t>ch</t></r><rPh><t>no</t></rPh></si>"]
    cells = ['<c r="@" t="s"><v>0</v></c>', '<c r="@" t="s"><v>1</v></c>', '<c r="@" t="str"><f>A1</f><v></v></c>']
    rows = [["t", "n"], *([Xml(cell), Xml(CALCULATED)] for cell in cells)]
    write_xlsx(tmp_path / "a.xlsx", {"S": rows}, shared=shared)
    table = opened(tmp_path)
    assert (["plain", "rich", ""], [3, 3, 3]) == (column_of(table, "t"), column_of(table, "n"))


def test_days_are_counted_from_1904_where_the_workbook_says_so(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "a.xlsx", {"S": [["d"], [Xml('<c r="@" s="1"><v>1</v></c>')]]}, counts_from_1904=True)
    assert [datetime.date(1904, 1, 2)] == column_of(opened(tmp_path), "d")
    write_xlsx(tmp_path / "a.xlsx", {"S": [["d"], [Xml('<c r="@" s="1"><v>1</v></c>')]]})
    assert [datetime.date(1900, 1, 1)] == column_of(opened(tmp_path), "d")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("General", None),
        ("0.00E+00", None),
        ('0 "days"', None),
        ("[Red]0.00;[Blue]-0.00", None),
        ("_-* #,##0.00\\ [$EUR]_-", None),
        ("dd/mm/yy", "date"),
        ("mmm-yy", "date"),
        ("[$-409]d\\-mmm\\-yyyy;@", "date"),
        ("h:mm AM/PM", "time"),
        ("mm:ss.0", "time"),
        ("m/d/yy h:mm", "moment"),
        ("[h]:mm:ss", "duration"),
        ("[mm]:ss", "duration"),
    ],
)
def test_a_number_format_says_what_is_shown(code: str, kind: str | None) -> None:
    assert kind == format_kind(code)


@given(st.integers(0, 16_383))
def test_columns_have_letters(number: int) -> None:
    assert number == column_number(f"{column_letters(number)}12")


@pytest.mark.parametrize(
    ("rows", "line", "words"),
    [
        ([["a"], [1], ["x"]], 3, "column `a` has a text here and a whole number in row 2 of the sheet"),
        ([["a"], [1], [True]], 3, "column `a` has a true or false here"),
        ([["a"], [Xml('<c r="@" t="e"><v>#N/A</v></c>')]], 2, "column `a`: cell A2 is the error #N/A; correct it"),
        (
            [["a"], [Xml('<c r="@"><f>1+2</f></c>')]],
            2,
            "cell A2 is a formula without a saved value; open",
        ),
        ([["a"], [Xml('<c r="@"><f>1+2</f><v></v></c>')]], 2, "cell A2 is a formula without a saved value"),
        (
            [["a"], [Xml('<c r="@" s="1"><v>60</v></c>')]],
            2,
            "cell A2 holds 60, which is no date",
        ),
        ([["a"], [Xml('<c r="@" s="1"><v>-1</v></c>')]], 2, "cell A2 holds -1, which is no date"),
        ([["a"], [Xml('<c r="@"><v>NaN</v></c>')]], 2, "cell A2 holds NaN, which is no number"),
        ([["a", "a"], [1, 2]], 1, "the header names `a` more than once"),
        ([["Reviews of 2026"], ["id", "text"], [1, "x"]], 2, "cell B2 has a value, and B1 has no name"),
        ([], None, "has no cells in its sheet"),
    ],
)
def test_what_is_wrong_with_a_sheet_is_named(rows: Any, line: int | None, words: str, tmp_path: Path) -> None:
    write_xlsx(tmp_path / "a.xlsx", {"S": rows})
    (mistake,) = mistakes_of(Input("a.xlsx"), tmp_path)
    assert words in mistake.message
    assert (str(tmp_path / "a.xlsx"), line) == (mistake.file, mistake.line)


def test_a_row_without_a_value_can_be_left_out(tmp_path: Path) -> None:
    rows = [["n", "a"], [1, "x"], [2, Xml('<c r="@" t="e"><v>#REF!</v></c>')], [3, "y"]]
    write_xlsx(tmp_path / "a.xlsx", {"S": rows})
    assert "cell B3 is the error #REF!" in mistakes_of(Input("a.xlsx"), tmp_path)[0].message
    assert ["x", "y"] == column_of(opened(tmp_path, where="n <> 2"), "a")


def test_merged_cells_of_the_table_are_refused(tmp_path: Path) -> None:
    """Above it and beside it they may be."""
    write_xlsx(tmp_path / "a.xlsx", {"S": [[], ["a", "b"], [1, 2], [3, 4]]}, merged=["A1:B1", "D2:E9"])
    assert [1, 3] == column_of(opened(tmp_path), "a")
    write_xlsx(tmp_path / "a.xlsx", {"S": [[], ["a", "b"], [1, 2], [3, 4]]}, merged=["A3:A4"])
    (mistake,) = mistakes_of(Input("a.xlsx"), tmp_path)
    assert ("the cells A3:A4 are merged" in mistake.message, 3) == (True, mistake.line)


def test_a_sheet_is_named_where_there_are_several(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "a.xlsx", {"One": [["a"], [1]], "Two": [["a"], [2]]})
    assert [2] == column_of(opened(tmp_path, sheet="Two"), "a")
    for sheet, words in ((None, "has the sheets `One`, `Two`; name one"), ("Three", "has no sheet `Three`")):
        (mistake,) = mistakes_of(Input("a.xlsx", sheet=sheet), tmp_path)
        assert (True, "input.sheet") == (words in mistake.message, mistake.key)
    (tmp_path / "a.csv").write_text("a\n1\n")
    assert "the table is no .xlsx" in mistakes_of(Input("a.csv", sheet="One"), tmp_path)[0].message


def test_workbooks_stand_beside_other_files(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "a.xlsx", {"S": [["a", "b"], [1, "x"]]})
    (tmp_path / "b.csv").write_text("a,b\n2,y\n")
    table = open_table(Input(["a.xlsx", "b.csv"]), folders=Folders(tmp_path))
    assert ([1, 2], ["x", "y"]) == (column_of(table, "a"), column_of(table, "b"))


@pytest.mark.parametrize("end", [0, 4, 0.5, -1])
def test_a_workbook_that_is_cut_is_refused(end: float, tmp_path: Path) -> None:
    whole = write_xlsx(tmp_path / "a.xlsx", {"S": lists(ROWS)}).read_bytes()
    kept = int(len(whole) * end) if isinstance(end, float) else end
    (tmp_path / "a.xlsx").write_bytes(whole[:kept])
    (mistake,) = mistakes_of(Input("a.xlsx"), tmp_path)
    assert (str(tmp_path / "a.xlsx"), True) == (mistake.file, "is no whole .xlsx workbook" in mistake.message)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_damaged_workbook_is_refused_or_read_in_full(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever byte is changed, it is a mistake of ours or the very rows: the archive has sums of its members."""
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray(write_xlsx(folder / "a.xlsx", {"S": [["a", "b"], [1, "x"], [2, "y"]]}).read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "a.xlsx").write_bytes(whole)
    try:
        found = [tuple(row.values.values()) for row in rows_of(opened(folder))]
    except workbook.InputError as error:
        assert str(folder / "a.xlsx") in str(error)
    else:
        assert [(1, "x"), (2, "y")] == found


def _with_member(path: Path, name: str, text: str) -> None:
    """The workbook with this member in the place of its own."""
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in {**members, name: text.encode()}.items():
            archive.writestr(each, content)


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row and the shared texts are what is held: both have a bound. Entities are not known at all."""
    monkeypatch.setattr(workbook, "_MOST_ROW_CHARACTERS", 1 << 20)
    monkeypatch.setattr(workbook, "_MOST_SHARED_BYTES", 1 << 20)
    path = tmp_path / "a.xlsx"
    long = "x" * (2 << 20)
    write_xlsx(path, {"S": [["a"], [long]]})
    assert "row 2 is longer than" in mistakes_of(Input("a.xlsx"), tmp_path)[0].message
    write_xlsx(path, {"S": [["a"], ["b"]]}, shared=[f"<si><t>{long}</t></si>"])
    assert "unpack to more than" in mistakes_of(Input("a.xlsx"), tmp_path)[0].message
    write_xlsx(path, {"S": [["a"], ["b"]]})
    lol = f'<!DOCTYPE sst [<!ENTITY a "lol">]><sst xmlns="{MAIN}"><si><t>&a;</t></si></sst>'
    _with_member(path, "xl/sharedStrings.xml", lol)
    assert "declares a document type" in mistakes_of(Input("a.xlsx"), tmp_path)[0].message


def test_old_and_locked_workbooks_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600)
    assert "is an .xls, or has a password" in mistakes_of(Input("a.xlsx"), tmp_path)[0].message
