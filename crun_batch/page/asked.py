"""What a page of rows is asked for, read from the parameters of an address. Pure.

The same parameters stand in the address that a browser shows: a link gives the same rows again.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.page.facts import RunFacets

ROWS_A_PAGE = 100
MOST_ROWS_A_PAGE = 500
_SCORE = re.compile(r"(?P<name>.+?)(?P<operator><=|>=|<|>|=)(?P<value>[-+.\deE]+)", re.DOTALL)
NO_SCORE = "none"
QUEUES = ("disagreements", "confidence", "random", "judge")
"""What a person may want to annotate next: rows that nobody has annotated, in an order."""


class ScoreBound(Struct, frozen=True):
    """A condition on one score; `value` is None where rows without that score are wanted."""

    score: str
    operator: str
    value: float | None


class RowsAsked(Struct, frozen=True):
    """Which rows, in which order, which columns of them, and which page."""

    statuses: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    scores: tuple[ScoreBound, ...] = ()
    label_of_people: str | None = None
    """Only rows that people labelled so."""
    differ: bool = False
    """Only rows that variants answered differently."""
    text: str | None = None
    is_regex: bool = False
    within: str | None = None
    """The column in which `text` is looked for; None: in all that hold text."""
    where: str | None = None
    """A predicate of SQL over the columns of results."""
    queue: str | None = None
    """One of QUEUES."""
    seed: int = 0
    """Of the random order of a queue."""
    annotated: bool | None = None
    """Only rows about which people said something, or only those about which nobody did."""
    sort: str | None = None
    descending: bool = False
    columns: tuple[str, ...] = ()
    page: int = 1
    rows_a_page: int = ROWS_A_PAGE

    @property
    def is_differing(self) -> bool:
        """Whether only rows count that variants answered differently."""
        return self.differ or self.queue == "disagreements"

    @property
    def is_annotated(self) -> bool | None:
        """`annotated`; a queue has what nobody has annotated."""
        return False if self.annotated is None and self.queue is not None else self.annotated


def rows_asked(parameters: Sequence[tuple[str, str]], facets: RunFacets) -> RowsAsked:
    """Read the parameters (name, value) of an address. Raises InputError for one that means nothing."""
    given: dict[str, list[str]] = {}
    for name, value in parameters:
        given.setdefault(name, []).append(value)
    sort = _last(given, "sort")
    within = _last(given, "in")
    columns = tuple(dict.fromkeys(given.get("column", ())))
    for name in (*columns, *([within] if within else []), *([sort.removeprefix("-")] if sort else [])):
        _check_column(name, facets)
    return RowsAsked(
        statuses=tuple(given.get("status", ())),
        variants=tuple(given.get("variant", ())),
        scores=tuple(_scores(given, facets)),
        label_of_people=_last(given, "people"),
        differ=_last(given, "differ") == "1",
        text=_last(given, "q"),
        is_regex=_last(given, "regex") == "1",
        within=within,
        where=_last(given, "where"),
        queue=_queue(given, facets),
        seed=_whole(given, "seed", 0, 10**9, least=0),
        annotated={"1": True, "0": False}.get(_last(given, "annotated") or ""),
        sort=None if sort is None else sort.removeprefix("-"),
        descending=sort is not None and sort.startswith("-"),
        columns=columns,
        page=_whole(given, "page", 1, 10**9),
        rows_a_page=_whole(given, "rows", ROWS_A_PAGE, MOST_ROWS_A_PAGE),
    )


def _last(given: Mapping[str, Sequence[str]], name: str) -> str | None:
    return next((value for value in reversed(given.get(name, ())) if value), None)


def _queue(given: Mapping[str, Sequence[str]], facets: RunFacets) -> str | None:
    queue = _last(given, "queue")
    if queue is not None and queue not in QUEUES:
        raise InputError(f"there is no queue {queue!r}; there are {', '.join(QUEUES)}")
    if queue == "confidence" and facets.confidence is None:
        raise InputError("no answer and no column of this run has a confidence")
    if queue == "judge" and not facets.judges:
        raise InputError("no judge has scored this run")
    return queue


def _whole(given: Mapping[str, Sequence[str]], name: str, default: int, most: int, least: int = 1) -> int:
    text = _last(given, name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text[:12]) <= most:
        raise InputError(f"{name} must be a whole number from {least} to {most:,}, not {text[:40]!r}")
    return int(text)


def _scores(given: Mapping[str, Sequence[str]], facets: RunFacets) -> Iterator[ScoreBound]:
    for text in filter(None, given.get("score", ())):
        name, colon, value = text.rpartition(":")
        found = _SCORE.fullmatch(text)
        if colon and value == NO_SCORE:
            bound = ScoreBound(name, "=", None)
        elif found is not None:
            bound = ScoreBound(found["name"].strip(), found["operator"], _number(found["value"], text))
        else:
            raise InputError(f"score {text!r} must be such as right<0.5, or right:{NO_SCORE}")
        if bound.score not in facets.scores:
            raise InputError(f"there is no score {bound.score!r}; there are {', '.join(facets.scores) or 'none'}")
        yield bound


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"score {whole!r} compares with {text!r}, which is no number")
    return value


def _check_column(name: str, facets: RunFacets) -> None:
    if name not in facets.columns:
        near = difflib.get_close_matches(name, facets.columns, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"results have no column {name!r}{meant}")
