"""Workbooks written by hand, so that every cell is just what a test means."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATED = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
STYLES = (0, 14, 164, 165, 166)
"""Number formats by style: general, date, and three of our own."""
_FORMATS = ((164, 'yyyy"-"mm-dd hh:mm:ss'), (165, "[Red]hh:mm:ss AM/PM"), (166, "[h]:mm:ss"))


@dataclass(frozen=True)
class Xml:
    """A cell as XML; `@` stands for its place."""

    text: str


def _serial(value: datetime.datetime) -> str:
    return repr((value - datetime.datetime(1899, 12, 30)) / datetime.timedelta(days=1))


def _cell(place: str, value: Any) -> str:
    if isinstance(value, Xml):
        return value.text.replace("@", place)
    if value is None:
        return ""
    if isinstance(value, bool):
        return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
    if isinstance(value, str):
        text = "".join(
            f"_x{ord(each):04X}_" if each < " " and each not in "\t\n" else each
            for each in value.replace("_x", "_x005F_x")
        )
        return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'
    if isinstance(value, datetime.datetime):
        return f'<c r="{place}" s="2"><v>{_serial(value)}</v></c>'
    if isinstance(value, datetime.date):
        return f'<c r="{place}" s="1"><v>{(value - datetime.date(1899, 12, 30)).days}</v></c>'
    if isinstance(value, datetime.time):
        seconds = value.hour * 3600 + value.minute * 60 + value.second
        return f'<c r="{place}" s="3"><v>{seconds / 86400!r}</v></c>'
    if isinstance(value, datetime.timedelta):
        return f'<c r="{place}" s="4"><v>{value / datetime.timedelta(days=1)!r}</v></c>'
    return f'<c r="{place}"><v>{value!r}</v></c>'


def letters(number: int) -> str:
    """A, B, ..., Z, AA for columns from 0."""
    return letters(number // 26 - 1) + chr(65 + number % 26) if number >= 26 else chr(65 + number)


def _rows(rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    for line, row in enumerate(rows, 1):
        if row:
            cells = "".join(_cell(f"{letters(n)}{line}", value) for n, value in enumerate(row))
            yield f'<row r="{line}">{cells}</row>'


def write_xlsx(
    path: Path,
    sheets: dict[str, Iterable[Sequence[Any]]],
    *,
    merged: Sequence[str] = (),
    shared: Sequence[str] = (),
    counts_from_1904: bool = False,
) -> Path:
    """The workbook; `merged` cells are of each sheet, `shared` is the XML of the texts that cells share."""
    members = [f"sheet{number}.xml" for number in range(1, len(sheets) + 1)]
    listed = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets, 1)
    )
    kinds = [("worksheet", f"worksheets/{member}") for member in members]
    kinds += [("styles", "styles.xml"), ("sharedStrings", "/xl/sharedStrings.xml")]
    related = "".join(
        f'<Relationship Id="r{n}" Type="{RELATED}/{kind}" Target="{target}"/>'
        for n, (kind, target) in enumerate(kinds, 1)
    )
    formats = "".join(f'<numFmt numFmtId="{number}" formatCode={quoteattr(code)}/>' for number, code in _FORMATS)
    styles = "".join(f'<xf numFmtId="{number}"/>' for number in STYLES)
    date_system = '<workbookPr date1904="1"/>' if counts_from_1904 else ""
    root = f'<Relationship Id="r1" Type="{RELATED}/officeDocument" Target="xl/workbook.xml"/>'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("_rels/.rels", f'<Relationships xmlns="{PACKAGE}">{root}</Relationships>')
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{MAIN}" xmlns:r="{RELATED}">{date_system}<sheets>{listed}</sheets></workbook>',
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{PACKAGE}">{related}</Relationships>'
        )
        archive.writestr(
            "xl/styles.xml",
            f'<styleSheet xmlns="{MAIN}"><numFmts>{formats}</numFmts>'
            f'<cellStyleXfs><xf numFmtId="14"/></cellStyleXfs><cellXfs>{styles}</cellXfs></styleSheet>',
        )
        archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{MAIN}">{"".join(shared)}</sst>')
        for member, rows in zip(members, sheets.values(), strict=True):
            with archive.open(f"xl/worksheets/{member}", "w", force_zip64=True) as file:
                file.write(f'<worksheet xmlns="{MAIN}"><sheetData>'.encode())
                for row in _rows(rows):
                    file.write(row.encode())
                areas = "".join(f'<mergeCell ref="{area}"/>' for area in merged)
                file.write(f"</sheetData><mergeCells>{areas}</mergeCells></worksheet>".encode())
    return path
