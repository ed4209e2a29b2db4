"""The reply to a request of several rows, taken apart: to each row its answer, or what is wrong with it.

An answer counts where its number is named once, is one of the request's, and something stands beside it. Before
the answers a model may say what it likes, and fence them; what follows one on lines of its own makes it doubtful.
Of a reply that was cut off, what stands whole before the cut counts. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct

from crun_batch.gateway.structured import embedded_values
from crun_batch.records import is_missing
from crun_batch.workload.packing import PackFormat

MISSING = "the reply to {rows} rows has no answer with the number {n}"
DOUBLED = "the reply to {rows} rows has several answers with the number {n}"
EMPTY = "the reply to {rows} rows has an empty answer with the number {n}"
LINES = "the reply to {rows} rows has more than a line for the number {n}"
CUT = "the reply to {rows} rows was cut off before the number {n}"
SPARE_PLACES = 16
"""Places that are tried as the beginning of an answer beyond those that there should be."""
_LINE = re.compile(r"\s*(?:\[(\d{1,6})\]|(\d{1,6}))[.:)]?\s+(\S(?:.*\S)?)\s*")
_BARE_NUMBER = re.compile(r"\s*(?:\[(\d{1,6})\]|(\d{1,6}))[.:)]?\s*")
_FENCE = re.compile(r"\s*```[\w+-]*\s*")
_OPENING = re.compile(r"\{")


class PackedAnswer(Struct, frozen=True):
    """What a reply says to one of its rows: the answer's text, or the complaint."""

    text: str | None = None
    complaint: str | None = None
    is_cut: bool = False
    """Whether it is missing because the reply was cut off, and for no fault in what stands before."""

    @property
    def size(self) -> int:
        """Of what the row got of the reply, in bytes."""
        return len((self.text or "").encode("utf-8", "surrogatepass"))


class PackedReply(Struct, frozen=True):
    """The answers to the rows of a request, in their order there."""

    answers: tuple[PackedAnswer, ...]
    extra: int = 0
    """Answers to numbers that no row has."""
    is_refused: bool = False
    """Whether the gateway would not answer, for what one of the rows says."""

    @property
    def is_bad(self) -> bool:
        """Whether anything is wrong with it but where it ends."""
        return self.extra > 0 or any(one.complaint is not None and not one.is_cut for one in self.answers)


def read_packed(text: str | None, rows: int, form: PackFormat, *, is_cut: bool = False) -> PackedReply:
    """The answers in the reply to so many rows. `is_cut`: it ended because it was as long as it may be."""
    said: dict[int, list[tuple[str | None, str | None]]] = {}
    for number, answer, complaint in _READERS[form](text or "", rows, is_cut):
        said.setdefault(number, []).append((answer, complaint))
    extra = sum(len(found) for number, found in said.items() if not 1 <= number <= rows)
    return PackedReply(tuple(_answer(said.get(n, []), n, rows, is_cut=is_cut) for n in range(1, rows + 1)), extra)


def _answer(found: Sequence[tuple[str | None, str | None]], n: int, rows: int, *, is_cut: bool) -> PackedAnswer:
    if not found:
        return PackedAnswer(complaint=(CUT if is_cut else MISSING).format(rows=rows, n=n), is_cut=is_cut)
    if len(found) > 1:
        return PackedAnswer(complaint=DOUBLED.format(rows=rows, n=n))
    [(text, complaint)] = found
    if complaint is None and is_missing(text):
        complaint = EMPTY
    return PackedAnswer(text) if complaint is None else PackedAnswer(complaint=complaint.format(rows=rows, n=n))


Numbered = tuple[int, str | None, str | None]
"""The number of a row, its answer, what is wrong with that."""


def _lines(text: str, rows: int, is_cut: bool) -> Iterator[Numbered]:
    """Each line that begins with a number; the last line of a cut reply may be half a line."""
    lines = text.split("\n")
    if is_cut:
        lines.pop()
    last: Numbered | None = None
    for line in lines:
        found = _LINE.fullmatch(line) or _BARE_NUMBER.fullmatch(line)
        if found is not None:
            if last is not None:
                yield last
            last = int(found[1] or found[2]), found[3] if found.re is _LINE else "", None
        elif last is not None and line.strip() and not _FENCE.fullmatch(line):
            last = last[0], None, LINES
    if last is not None:
        yield last


def _objects(text: str, rows: int, is_cut: bool) -> Iterator[Numbered]:
    """Each object with a number and an answer: of the whole value where it is one, else one after the other."""
    for item in _listed(text) or _scattered(text, rows):
        number = _number(item.get("n"))
        if number is not None:
            yield number, _said(item.get("answer")), None


def _listed(text: str) -> list[Mapping[str, Any]]:
    try:
        whole = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    items = whole.get("answers") if isinstance(whole, dict) else whole
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _scattered(text: str, rows: int) -> Iterator[Mapping[str, Any]]:
    """Where the reply as a whole is no JSON: fenced, with words around it, or cut off."""
    for value in embedded_values(text, _OPENING, rows + SPARE_PLACES):
        listed = value.get("answers")
        if isinstance(listed, list) and "n" not in value:
            yield from (item for item in listed if isinstance(item, dict))
        else:
            yield value


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) <= 6:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _said(answer: Any) -> str | None:
    """A text as it is; any other value as JSON; nothing where it is null."""
    if answer is None or isinstance(answer, str):
        return answer
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


_READERS: Mapping[PackFormat, Callable[[str, int, bool], Iterator[Numbered]]] = {
    "json": _objects,
    "lines": _lines,
}
