"""What was asked, as conditions of SQL. Pure: no value of a user stands in a text, all are parameters.

The user's own predicate is not here: it is parsed by DuckDB as one expression (`opened.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from crun_batch.page.asked import RowsAsked
from crun_batch.page.certain_text import certain_text
from crun_batch.page.facts import RunFacets
from crun_batch.page.held_columns import END, LOW, RAW, SURENESS, TOLD, text_of
from crun_batch.store.schema import SEQUENCE, quoted

ANNOTATED = "_annotated"
"""The table of what is annotated: (id as text, variant, repeat); without variant, the row with all its answers."""
LABELLED = "_labelled"
"""The table of the rows' labels by people: (id as text, label)."""
DIFFERING = "_differing"
"""The table of the units (id, repeat) that variants answered differently."""


class Condition(Struct, frozen=True):
    """A condition and the values of its places."""

    sql: str
    values: tuple[Any, ...] = ()


class RowNeeds(Struct, frozen=True):
    """What rows must have, so that conditions and an order can be said of them."""

    texts: bool = False
    """Those that are searched, in the form of `held_columns`."""
    columns: tuple[str, ...] = ()
    """Of results, beside id, variant, repeat and status."""
    is_scored: bool = False
    certain: str | None = None
    """Only rows that have this text somewhere can be wanted."""


def needs(asked: RowsAsked, facets: RunFacets) -> RowNeeds:
    """What `conditions` and `order` name."""
    searched = (*facets.searched,) if asked.within is None else (asked.within,)
    is_searched = asked.text is not None and not asked.is_regex and asked.within in (None, *facets.searched)
    looked_in = () if asked.text is None or is_searched else searched
    sorted_by = () if asked.sort is None else (asked.sort,)
    columns = tuple(dict.fromkeys((*sorted_by, *looked_in)))
    of_scores = bool(asked.scores) or asked.queue == "judge" or bool({*columns} & {*facets.score_columns})
    certain = certain_text(asked.text) if asked.text is not None and asked.is_regex else None
    return RowNeeds(is_searched, columns, of_scores, certain)


def conditions(asked: RowsAsked, facets: RunFacets) -> Condition:
    """All conditions together; `true` where there is none."""
    found = list(_each(asked, facets))
    sql = " and ".join(one.sql for one in found) or "true"
    return Condition(sql, tuple(value for one in found for value in one.values))


def order(asked: RowsAsked, facets: RunFacets) -> str:
    """The order of the rows: that of their recording where nothing is asked, and within what is equal."""
    if asked.sort is None and asked.queue == "confidence":
        return f"{SURENESS} asc nulls last, {SEQUENCE}"
    if asked.sort is None and asked.queue in ("random", "judge"):
        return f"hash({quoted(facets.id_name)}, {asked.seed}), {SEQUENCE}"
    if asked.sort is None:
        return SEQUENCE
    direction = "desc" if asked.descending else "asc"
    return f"{quoted(asked.sort)} {direction} nulls last, {SEQUENCE}"


def differing_units(facets: RunFacets, source: str) -> str:
    """The query of the units in `source` that variants answered differently; an answer that is missing is none."""
    unit = f'{quoted(facets.id_name)} as unit_id, "repeat" as unit_repeat'
    return f"select {unit} from {source} where {TOLD} is not null group by all having min({TOLD}) <> max({TOLD})"


def _each(asked: RowsAsked, facets: RunFacets) -> Iterator[Condition]:
    for name, values in (("status", asked.statuses), ("variant", asked.variants)):
        if values:
            yield Condition(f"{name} in ({', '.join('?' for _ in values)})", values)
    for bound in asked.scores:
        column = quoted(f"score_{bound.score}")
        if bound.value is None:
            yield Condition(f"{column} is null")
        else:
            yield Condition(f"{column} {bound.operator} ?", (bound.value,))
    if asked.is_differing:
        unit = f'({quoted(facets.id_name)}, "repeat")'
        yield Condition(f"{unit} in (select (unit_id, unit_repeat) from {DIFFERING})")
    row, row_id = quoted(facets.id_name), facets.sql_id("id")
    if asked.is_annotated is not None:
        ids = f"from {ANNOTATED} where {row_id} is not null and variant is"
        said = (
            f"({row} in (select {row_id} {ids} null) or "
            f'({row}, variant, "repeat") in (select ({row_id}, variant, "repeat") {ids} not null))'
        )
        yield Condition(said if asked.is_annotated else f"not {said}")
    if asked.label_of_people is not None:
        ids = f"from {LABELLED} where {row_id} is not null and label = ?"
        yield Condition(f"{row} in (select {row_id} {ids})", (asked.label_of_people,))
    if asked.queue == "judge":
        judged = " or ".join(f"{quoted(f'score_{name}')} is not null" for name in facets.judges)
        yield Condition(f"({judged})")
    if asked.text is not None:
        yield _search(asked, asked.text, facets)


def _search(asked: RowsAsked, text: str, facets: RunFacets) -> Condition:
    """The text as it is, whatever its case, or a regular expression as it is written."""
    places = {name: place for place, name in enumerate(facets.searched)}
    names = tuple(places) if asked.within is None else (asked.within,)
    if asked.is_regex or not set(names) <= set(places):
        how = "regexp_matches({}, ?)" if asked.is_regex else "contains(lower({}), lower(?))"
        found = [how.format(text_of(name, facets.columns[name])) for name in names]
        return Condition(f"({' or '.join(found)})", (text,) * len(found))
    low = f"contains({LOW}, lower(?))"
    if asked.within is not None:  # looked for anywhere first, which costs a tenth of finding the text's place
        low = f"case when {low} then contains(split_part({LOW}, {END}, {places[asked.within] + 1}), lower(?)) end"
    raw = [f"contains(lower({RAW}{places[name]}), lower(?))" for name in names]
    sql = f"case when {LOW} is not null then {low} else ({' or '.join(raw)}) end"
    return Condition(sql, (text,) * sql.count("?"))
