"""Plain text for terminals: tables, the summary of a run, lists of mistakes.

Owns alignment and what may reach a terminal: cells may hold what a model or a gateway wrote, so control and
direction characters never pass. Gives text back; printing is the command line's.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import zip_longest
from typing import Any

from crun_batch.console.amounts import UNKNOWN, count, counted, duration, money, rate
from crun_batch.console.bill_words import batch_phrase, cost_phrase, decimal_of
from crun_batch.console.pilots import pilot_lines
from crun_batch.errors import Mistake

ELLIPSIS = "…"
GAP = "  "
_LEAST_WIDTH = 4
_TEXT_WIDTH = 10
"""What is left of a text at least: less, and names look alike."""
_READABLE_WIDTH = 16
_NUMBER = re.compile(r"[-+~]?\$?[\d,]*\.?\d+(?: ?%| credits?)?")
_ABSENT = ("", "-", UNKNOWN)
_DIRECTION = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
_STATUSES = ("ok", "invalid", "truncated", "refused", "error", "open")
_ENDS = {
    "finished": "finished",
    "stopped": "stopped",
    "running": "still running",
    "interrupted": "interrupted",
    "killed": "killed",
}


def one_line(text: str) -> str:
    """The text on one line, its control and direction characters replaced: safe to show in a terminal."""
    words = " ".join(text.split())
    if words.isascii() and words.isprintable():
        return words
    return "".join("\ufffd" if _is_harmful(character) else character for character in words)


def secret_phrases(secrets: Sequence[Mapping[str, str]]) -> list[str]:
    """What goes to whom, a phrase for each address: `TOK (key), TEAM (header X-Team) go to https://gate.test/v1`."""
    names: dict[str, list[str]] = {}
    for secret in secrets:
        names.setdefault(secret["base_url"], []).append(f"{secret['name']} ({secret['as']})")
    return [
        one_line(f"{', '.join(said)} {'goes' if len(said) == 1 else 'go'} to {base_url}")
        for base_url, said in names.items()
    ]


def _is_harmful(character: str) -> bool:
    return ord(character) in _DIRECTION or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def display_width(text: str) -> int:
    """Terminal columns: 2 for wide characters, 0 for combining and invisible ones."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def shorten(text: str, width: int) -> str:
    """The text, or as much of it as fits into `width` columns with an ellipsis."""
    if display_width(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += _character_width(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept).rstrip() + ELLIPSIS if width > 0 else ""


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
    lines = [*zip_longest(*heads, fillvalue=""), ["-" * column_width for column_width in widths], *cells]
    return "\n".join(
        GAP.join(_aligned(*cell) for cell in zip(line, widths, numeric, strict=True)).rstrip() for line in lines
    )


def _shortened(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> list[tuple[str, ...]]:
    """The cells in their columns' widths; where different ones would look alike, the middle gives way."""
    columns = []
    for column, width in zip(zip(*cells, strict=True), widths, strict=False):
        shown = [shorten(cell, width) for cell in column]
        if len(set(shown)) < len(set(column)):
            shown = [_shorten_middle(cell, width) for cell in column]
        columns.append(shown)
    return list(zip(*columns, strict=True))


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
        else min(max(map(display_width, (*column, title))), _TEXT_WIDTH)
        for title, column, right in zip(titles, columns, numeric, strict=True)
    ]


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
    blocks = [
        "\n".join(
            f"{_aligned(title, left, False)}{GAP}{_stacked_cell(cell, width - left - len(GAP))}".rstrip()
            for title, cell in zip(titles, row, strict=True)
        )
        for row in cells
    ]
    return "\n\n".join(blocks)


def _stacked_cell(cell: str, width: int) -> str:
    return shorten(cell, max(width, _LEAST_WIDTH))


def _cell(value: object) -> str:
    if value is None:
        return "-"
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


def summary_text(summary: Mapping[str, Any]) -> str:
    """The end of a run in a few lines: rows, errors, tokens, the bill, time, and the command to go on.

    `summary` is the run's summary.json: counts of rows by status, tokens by kind, costs and holds as decimal
    text or null, seconds.
    """
    lines = (f"  {name:<8} {phrase}" for name, phrase in summary_lines(summary))
    return "\n".join([summary_headline(summary), *lines])


def summary_lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The summary's lines: (what, how much)."""
    lines = [
        ("rows", _rows_phrase(summary["rows"])),
        ("errors", ", ".join(f"{count(number)} {kind}" for kind, number in _by_number(summary["errors"]))),
        ("tokens", _tokens_phrase(summary["tokens"])),
        ("cost", cost_phrase(summary)),
        *(("judge", _judge_phrase(name, sums)) for name, sums in summary.get("judges", {}).items()),
        *(("endpoint", _endpoint_phrase(name, one)) for name, one in summary.get("endpoints", {}).items()),
        ("shared", _shared_phrase(summary.get("shared", 0))),
        ("reused", reused_phrase(summary.get("reused"))),
        *(("batch", one_line(batch_phrase(one))) for one in summary.get("batches", ())),
        ("time", _time_phrase(summary)),
        *(pilot_lines(summary["pilot"]) if summary.get("is_pilot") and summary["pilot"] else ()),
        ("results", _place_phrase(summary)),
        ("resume", one_line(summary.get("resume_command") or "")),
    ]
    return [(name, phrase) for name, phrase in lines if phrase]


def _place_phrase(summary: Mapping[str, Any]) -> str:
    """Where the results are; of a job by several workers that are not through, in its shards."""
    shards = summary.get("shards")
    if shards is None:
        return one_line(summary["output_dir"])
    if not shards:
        return f"none yet; they go to {one_line(summary['output_dir'])}"
    others = f" and {len(shards) - 1} more beside it" if len(shards) > 1 else ""
    return f"in shards as yet: {one_line(shards[0])}{others}"


def _judge_phrase(name: str, sums: Mapping[str, Any]) -> str:
    cost = money(decimal_of(sums["cost_usd"]), decimal_of(sums["cost_credits"]))
    return f"{one_line(name)}: {counted(sums['answered'], 'verdict')}, {cost} of the cost"


def _endpoint_phrase(name: str, one: Mapping[str, Any]) -> str:
    cost = f", {money(decimal_of(one['cost_usd']), decimal_of(one['cost_credits']))} of the cost"
    why = "" if one["left_out"] is None else f"; left out: {one_line(one['left_out'])}"
    return f"{one_line(name)}: {counted(one['answered'], 'answer')}{cost if one['answered'] else ''}{why}"


def _shared_phrase(shared: int) -> str:
    return f"{counted(shared, 'row')} given the answer to an identical request, at no cost" if shared else ""


def reused_phrase(reused: Mapping[str, Any] | None) -> str:
    """What was taken over from earlier runs, and what it had cost there; "" for nothing."""
    if not reused or not reused["rows"]:
        return ""
    usd, credits_ = (decimal_of(reused[f"saved_{unit}"]) for unit in ("usd", "credits"))
    unknown = reused["rows"] - reused["of_known_cost"]
    doubt = f" (of {count(unknown)} it is not known)" if unknown else ""
    return f"{counted(reused['rows'], 'answer')} of earlier runs, which had cost {money(usd, credits_)}{doubt}"


def summary_headline(summary: Mapping[str, Any]) -> str:
    """What is told of, how it ended, its exit code."""
    reason = one_line(summary.get("stop_reason") or _why_not_zero(summary))
    end = _ENDS[summary["status"]] + (f": {reason}" if reason else "")
    exit_code = summary.get("exit_code")
    return f"{named(summary)}: {end}" + ("" if exit_code is None else f" (exit code {exit_code})")


def named(document: Mapping[str, Any]) -> str:
    """The job's name, with the shard that a document is about."""
    shard = document.get("shard")
    return one_line(document["name"]) + (f", shard {shard}" if shard else "")


def _why_not_zero(summary: Mapping[str, Any]) -> str:
    """Of a finished run that ends with 1: what is not ok, and the option that asks it again."""
    not_ok = sum(summary["rows"].get(status, 0) for status in _STATUSES if status not in ("ok", "open"))
    if summary["status"] != "finished" or not summary.get("exit_code") or not not_ok:
        return ""
    is_one = not_ok == 1
    again = "it" if is_one else "them"
    return f"{counted(not_ok, 'row')} {'is' if is_one else 'are'} not ok, --retry failed asks {again} again"


def _rows_phrase(rows: Mapping[str, int]) -> str:
    by_status = [f"{count(rows[status])} {status}" for status in _STATUSES if rows.get(status) or status == "ok"]
    return f"{count(rows['total'])}: {', '.join(by_status)}"


def _by_number(errors: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(
        ((kind, number) for kind, number in errors.items() if number), key=lambda item: (-item[1], item[0])
    )


def _tokens_phrase(tokens: Mapping[str, int]) -> str:
    inputs = _with_parts(tokens, "input", {"cached_input": "cached", "cache_write": "written to the cache"})
    return f"{inputs}, {_with_parts(tokens, 'output', {'reasoning': 'reasoning'})}"


def _with_parts(tokens: Mapping[str, int], whole: str, parts: Mapping[str, str]) -> str:
    shown = ", ".join(f"{count(tokens[name])} {words}" for name, words in parts.items() if tokens.get(name))
    return f"{count(tokens.get(whole, 0))} {whole}" + (f" ({shown})" if shown else "")


def _time_phrase(summary: Mapping[str, Any]) -> str:
    requests = counted(summary["attempts"], "request")
    return f"{duration(summary['seconds'])}, {rate(summary['rows_per_second'])}, {requests}"


def mistakes_text(mistakes: Sequence[Mistake], advice: str = "") -> str:
    """The mistakes, numbered where there are several, and what to do next.

    The excerpt of a statement (LINE 3: ..., a caret below) keeps its lines.
    """
    if len(mistakes) == 1:
        lines = _message_lines(mistakes[0], "")
    else:
        digits = len(str(len(mistakes)))
        lines = [f"{counted(len(mistakes), 'mistake')}:"]
        for number, mistake in enumerate(mistakes, 1):
            lines += _message_lines(mistake, f"  {number:>{digits}}. ")
    return "\n".join([*lines, one_line(advice)] if advice else lines)


def _message_lines(mistake: Mistake, mark: str) -> list[str]:
    message, line, excerpt = str(mistake).partition("\nLINE ")
    shown = (line[1:] + excerpt).splitlines() if line else []
    indent = " " * (len(mark) + 2)
    return [mark + one_line(message), *(indent + printable_line(each) for each in shown)]


def printable_line(line: str) -> str:
    """The line as `one_line` shows it, with all its blanks."""
    return "".join("\ufffd" if _is_harmful(character) else character for character in line.expandtabs(1))
