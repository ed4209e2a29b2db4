"""Tables for terminals: aligned, within the width, and no figure is ever cut.

Gives text back; printing is the command line's.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import zip_longest

from crun_batch.console.amounts import UNKNOWN, count
from crun_batch.console.words import ELLIPSIS, display_width, one_line, shorten

GAP = "  "
_LEAST_WIDTH = 4
_TEXT_WIDTH = 10
"""What is left of a text at least: less, and names look alike."""
_READABLE_WIDTH = 16
_NAME_WIDTH = 60
"""What is no wider may be a name: two of them are never shown alike."""
_NUMBER = re.compile(r"[-+~]?\$?[\d,]*\.?\d+(?: ?%| credits?)?")
_WHOLE = re.compile(
    r"\d{4}-\d\d-\d\d[ T][\d:.]+.*"
    r"|[-+~<]? ?\$?[\d,]*\.?\d+(?: ?%| points?| credits?)?(?: \([^()]*\d\))?(?:(?:,| \+) [\d,]+ unknown)?"
)
"""A moment, or a figure with its unit, interval and what is not in it: cut, it would be another one."""
_PIECES = re.compile(r"(?<=[^ ]) (?=\(|\+ )|(?<=,) ")
"""Where a figure goes on in the next line of its cell."""
_ABSENT = ("", "-", UNKNOWN)


class Words(str):
    """A cell that says something: it is never shortened, but goes on below itself, word by word."""

    __slots__ = ()


class _Name(Words):
    """A name that goes on below itself, after a slash where it has one."""

    __slots__ = ()


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None = None) -> str:
    """An aligned table: numbers to the right, texts to the left; no number is ever cut that fits a line.

    Where `width` is short, titles break between their words, then texts are shortened, the widest first; where
    even that is not enough, each row stands in lines of its own, a title and its value in each.
    """
    cells: Sequence[Sequence[str]] = [[_cell(value) for value in row] for row in rows]
    titles = [one_line(title) for title in headers]
    widths = [max(map(display_width, column)) for column in zip(titles, *cells, strict=True)]
    numeric = _numeric(cells, len(titles))
    if width is not None and _row_width(widths) > width:
        floors = _floors(titles, cells, numeric)
        if _row_width(floors) > width:
            return _stacked(titles, cells, width)
        widths = _narrowed(widths, floors, numeric, width)
        cells = _shortened(cells, widths)
    heads = [_broken(title, column_width) for title, column_width in zip(titles, widths, strict=True)]
    rule = ["-" * column_width for column_width in widths]
    lines = [*zip_longest(*heads, fillvalue=""), rule, *(line for row in cells for line in _lines(row, widths))]
    return "\n".join(
        GAP.join(_aligned(*cell) for cell in zip(line, widths, numeric, strict=True)).rstrip() for line in lines
    )


def _shortened(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> list[tuple[str, ...]]:
    """The cells in their columns' widths; where different ones would look alike, the middle gives way.

    Where names even then would, as of variants that differ in the middle, they go on below themselves.
    """
    columns = []
    for column, width in zip(zip(*cells, strict=True), widths, strict=False):
        shown = [cell if _is_whole(cell) else shorten(cell, width) for cell in column]
        if len(set(shown)) < len(set(column)):
            shown = [cell if _is_whole(cell) else _shorten_middle(cell, width) for cell in column]
        if len(set(shown)) < len(set(column)) and max(map(display_width, column)) <= _NAME_WIDTH:
            shown = [cell if _is_whole(cell) else _Name(cell) for cell in column]
        columns.append(shown)
    return list(zip(*columns, strict=True))


def _lines(row: Sequence[str], widths: Sequence[int]) -> Iterator[Sequence[str]]:
    """A row of the table: several lines where a cell goes on below itself."""
    yield from zip_longest(*map(_cell_lines, row, widths), fillvalue="")


def _cell_lines(cell: str, width: int) -> list[str]:
    """The cell, or where it is too wide and must not be cut, the lines in which it goes on."""
    if display_width(cell) <= width or not _is_whole(cell):
        return [cell]
    if isinstance(cell, _Name):
        return _name_lines(cell, width)
    return textwrap.wrap(cell, width) if isinstance(cell, Words) else _PIECES.split(cell)


def _name_lines(name: str, width: int) -> list[str]:
    most = width - 1 if name.isascii() else (width - 1) // 2
    lines = [""]
    for piece in re.findall(f"[^/]{{1,{most}}}/?|/", name):
        if display_width(lines[-1] + piece) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return lines


def _is_whole(cell: str) -> bool:
    return isinstance(cell, Words) or _WHOLE.fullmatch(cell) is not None


def _shorten_middle(text: str, width: int) -> str:
    if display_width(text) <= width or width < 2 * _LEAST_WIDTH:
        return shorten(text, width)
    tail = shorten(text[::-1], width // 2).removesuffix(ELLIPSIS)[::-1]
    return shorten(text, width - display_width(tail)) + tail


def leading_columns(headers: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> int:
    """How many of the columns fit beside each other, each wide enough to be read; at least one."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = _numeric(cells, len(headers))
    needed = [
        max(map(display_width, column)) if right else min(max(map(display_width, column)), _READABLE_WIDTH)
        for column, right in zip(zip(map(one_line, headers), *cells, strict=True), numeric, strict=True)
    ]
    fitting = [number for number in range(1, len(headers) + 1) if _row_width(needed[:number]) <= width]
    return max(fitting, default=1)


def _numeric(cells: Sequence[Sequence[str]], columns: int) -> list[bool]:
    return [bool(cells) and all(_is_number(row[index]) for row in cells) for index in range(columns)]


def _row_width(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _floors(titles: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[int]:
    """The least width of each column: whole numbers under the words of their title, a little of a text."""
    columns = list(zip(*cells, strict=True)) if cells else [()] * len(titles)
    return [
        max(map(display_width, (*column, *title.split(" "))), default=0)
        if right
        else max([min(max(map(display_width, (*column, title))), _TEXT_WIDTH), *map(_least_width, column)])
        for title, column, right in zip(titles, columns, numeric, strict=True)
    ]


def _least_width(cell: str) -> int:
    """What a text cannot be narrower than: a whole figure or moment, a figure piece by piece, a word."""
    if not _is_whole(cell):
        return 0
    return max(map(display_width, cell.split(" ") if isinstance(cell, Words) else _PIECES.split(cell)))


def _narrowed(widths: Sequence[int], floors: Sequence[int], numeric: Sequence[bool], width: int) -> list[int]:
    """Widths that fit: titles of numbers break first, then the widest text gives way."""
    narrowed = [floor if right else wide for wide, floor, right in zip(widths, floors, numeric, strict=True)]
    texts = [index for index, right in enumerate(numeric) if not right]
    for _ in range(max(0, _row_width(narrowed) - width)):
        widest = max(texts, key=lambda index: narrowed[index] - floors[index])
        narrowed[widest] -= 1
    return narrowed


def _broken(title: str, width: int) -> list[str]:
    """The title in lines of at most `width` columns, as far as its words allow."""
    return textwrap.wrap(title, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]


def _stacked(titles: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> str:
    """Each row as a block of lines: a title, then its value; titles give way to long numbers."""
    if not cells:
        return shorten(", ".join(titles), width)
    numbers = [display_width(cell) for row in cells for cell in row if _is_number(cell)]
    half = min(width // 2, width - len(GAP) - max(numbers, default=0))
    left = min(max(map(display_width, titles)), max(half, _LEAST_WIDTH))
    right = max(width - left - len(GAP), _LEAST_WIDTH)
    blocks = [
        "\n".join(
            f"{_aligned(head, left, False)}{GAP}{shorten(line, right)}".rstrip()
            for title, cell in zip(titles, row, strict=True)
            for head, line in zip_longest([title], _cell_lines(cell, right), fillvalue="")
        )
        for row in cells
    ]
    return "\n\n".join(blocks)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, Words):
        return Words(one_line(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return f"{value:,f}" if isinstance(value, Decimal) else one_line(str(value))


def _is_number(cell: str) -> bool:
    return cell in _ABSENT or _NUMBER.fullmatch(cell) is not None


def _aligned(cell: str, width: int, right: bool) -> str:
    shown = shorten(cell, width)
    padding = " " * (width - display_width(shown))
    return padding + shown if right else shown + padding
