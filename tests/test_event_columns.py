"""Events as columns: in whatever order they come, looking for few fields finds what looking for all does."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect
from msgspec.json import encode

from crun_batch.store import event_columns as columns
from crun_batch.store import frames
from crun_batch.store.event_columns import EventParser
from crun_batch.store.events import FinalPart, ReadEvent
from crun_batch.store.schema import RunSchema

WANTED = pa.struct(
    {
        "n": pa.int64(),
        "text": pa.string(),
        "tokens": pa.int64(),
        "final": pa.struct(
            {"status": pa.string(), "cost": pa.int64(), "carried": pa.struct({"a": pa.string(), "b": pa.string()})}
        ),
    }
)
OTHERS = pa.struct({"e": pa.string(), "position": pa.int64()})

counts = st.integers(-5, 5) | st.just(2**63 - 1)
some = st.fixed_dictionaries(
    {"e": st.just("read"), "n": counts},
    optional={
        "position": counts,
        "text": st.text(st.characters(codec="utf-8"), max_size=5),
        "tokens": counts | st.just(2**64),
        "final": st.fixed_dictionaries(
            {"status": st.sampled_from(["ok", "error"])},
            optional={
                "cost": counts,
                "carried": st.fixed_dictionaries({}, optional={"a": st.none() | st.just("x"), "b": st.just("y")}),
            },
        ),
        "unheard_of": st.just([1]),
    },
)


def array(objects: list[dict[str, Any]]) -> pa.Array:
    return pa.array(list(map(encode, objects)), pa.binary())


@given(st.lists(st.lists(some, max_size=4), max_size=6))
def test_a_parser_finds_what_is_there(batches):
    """In any order of batches, with numbers that are too large, fields that nobody knows, and nulls."""
    parser = EventParser(WANTED, OTHERS)
    for batch in batches:
        objects = array(batch)
        assert columns.event_columns(objects, WANTED) == parser.columns(objects)


def test_a_field_that_never_comes_is_not_looked_for(monkeypatch):
    """After the first batch; and one that comes later is found, then looked for."""
    looked_for = []
    parsed = columns._parsed

    def noted(objects, fields, others="ignore"):
        looked_for.append({field.name for field in fields})
        return parsed(objects, fields, others)

    monkeypatch.setattr(columns, "_parsed", noted)
    parser = EventParser(WANTED, OTHERS)
    few, more = array([{"n": 1}]), array([{"n": 2, "text": "later"}])
    found = [parser.columns(objects)["text"].to_pylist() for objects in (few, few, more, more, few)]
    assert [[None], [None], ["later"], ["later"], [None]] == found
    everything = {"n", "text", "tokens", "final", "e", "position"}
    assert [everything, {"n"}, {"n"}, everything, {"n", "text"}, {"n", "text"}] == looked_for


def test_where_fields_come_that_nobody_knows_all_known_ones_are_looked_for_at_once(monkeypatch):
    """Looking for the usual ones fails each time: it is tried no more."""
    times = []
    parsed = columns._parsed
    monkeypatch.setattr(columns, "_parsed", lambda *args, **others: times.append(1) or parsed(*args, **others))
    parser = EventParser(WANTED, OTHERS)
    for _ in range(10):
        parser.columns(array([{"n": 1, "unheard_of": 1}]))
    assert 10 + 1 == len(times)


def test_every_field_of_an_event_is_known_to_those_who_read_it():
    """One that is missing there would make each piece be parsed twice."""
    schema = RunSchema(id_name="id", id_type=pa.string())
    known = {*frames._READ_TYPES, *(field.name for field in frames._NOT_SHOWN), "final"}
    assert {"e", *(field.encode_name for field in fields_of(ReadEvent))} == known
    known_of_final = {field.name for field in frames._final_type(schema)} | {"carried"}
    assert {field.encode_name for field in fields_of(FinalPart)} == known_of_final


def fields_of(kind: type) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return info.fields
