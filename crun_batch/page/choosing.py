"""What was asked, as conditions of SQL. Pure: no value of a user stands in a text, all are parameters.

The user's own predicate is not here: it is parsed by DuckDB as one expression (`opened.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.types as is_type
from msgspec import Struct

from crun_batch.page.asked import RowsAsked
from crun_batch.page.facts import RunFacets
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


def conditions(asked: RowsAsked, facets: RunFacets) -> Condition:
    """All conditions together; `true` where there is none."""
    found = list(_each(asked, facets))
    sql = " and ".join(one.sql for one in found) or "true"
    return Condition(sql, tuple(value for one in found for value in one.values))


def order(asked: RowsAsked, facets: RunFacets) -> str:
    """The order of the rows: that of their recording where nothing is asked, and within what is equal."""
    if asked.sort is None and asked.queue == "confidence":
        return f"{facets.confidence} asc nulls last, {SEQUENCE}"
    if asked.sort is None and asked.queue in ("random", "judge"):
        return f"hash({quoted(facets.id_name)}, {asked.seed}), {SEQUENCE}"
    if asked.sort is None:
        return SEQUENCE
    direction = "desc" if asked.descending else "asc"
    return f"{quoted(asked.sort)} {direction} nulls last, {SEQUENCE}"


def differing_units(facets: RunFacets) -> str:
    """The query of the units that variants answered differently; an answer that is missing is none."""
    answer = quoted("output") + "::varchar" if "output" in facets.columns else "trim(output_text)"
    unit = f'{quoted(facets.id_name)} as unit_id, "repeat" as unit_repeat'
    told = f"select {unit}, hash({answer}) as told from results where {answer} is not null"
    return f"select unit_id, unit_repeat from ({told}) group by all having min(told) <> max(told)"


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
    if asked.is_annotated is not None:
        row = f"{quoted(facets.id_name)}::varchar"
        said = (
            f"({row} in (select id from {ANNOTATED} where variant is null) or "
            f'({row}, variant, "repeat") in '
            f'(select (id, variant, "repeat") from {ANNOTATED} where variant is not null))'
        )
        yield Condition(said if asked.is_annotated else f"not {said}")
    if asked.label_of_people is not None:
        row = f"{quoted(facets.id_name)}::varchar"
        yield Condition(f"{row} in (select id from {LABELLED} where label = ?)", (asked.label_of_people,))
    if asked.queue == "judge":
        judged = " or ".join(f"{quoted(f'score_{name}')} is not null" for name in facets.judges)
        yield Condition(f"({judged})")
    if asked.text is not None:
        yield _search(asked, asked.text, facets)


def _search(asked: RowsAsked, text: str, facets: RunFacets) -> Condition:
    """The text as it is, whatever its case, or a regular expression as it is written."""
    names = (asked.within,) if asked.within is not None else (facets.id_name, *facets.texts)
    told = [_told(name, facets) for name in dict.fromkeys(names)]
    if asked.is_regex:
        found = [f"regexp_matches({one}, ?)" for one in told]
    else:
        found = [f"contains(lower({one}), lower(?))" for one in told]
    return Condition(f"({' or '.join(found)})", (text,) * len(found))


def _told(name: str, facets: RunFacets) -> str:
    is_text = is_type.is_string(facets.columns[name])
    return quoted(name) if is_text else f"{quoted(name)}::varchar"
