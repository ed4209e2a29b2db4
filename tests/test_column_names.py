"""Columns of any name in templates: `row` reads each of them, and what only looks like one is never sent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crun_batch.errors import InputError
from crun_batch.load.folders import Folders
from crun_batch.load.job.job import Job
from crun_batch.load.prompt.column_names import in_template
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.load.prompt.render import Renderer
from crun_batch.load.prompt.score_templates import ScoreTemplates
from crun_batch.records import Row

KEYS = ("system", "user", "messages", "messages_column", "body_column", "turns")
NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
ODD = st.sampled_from(
    ["a-b", "a", "b", "a b", "2024", "true", "none", "self", "not", "row x", "a.b", '"', "\\", "a\nb"]
)


def rendered(template: str, cells: dict[str, Any]) -> str:
    """What the user message of one row is, where all columns are text."""
    schema = pa.schema([(name, pa.string()) for name in cells])
    spec = SimpleNamespace(**{**dict.fromkeys(KEYS), "user": template})
    made = Renderer(spec, schema=schema, folders=Folders(Path()), job_source="job.yaml")
    try:
        assert set(made.columns) <= set(cells)
        values = {name: cells[name] for name in made.columns}
        return str(made.render(Row(position=0, row_id=0, values=values)).messages[0]["content"])
    finally:
        made.close()


def complaint(template: str, *columns: str) -> str:
    with pytest.raises(InputError) as caught:
        rendered(template, dict.fromkeys(columns, "cell"))
    (mistake,) = caught.value.mistakes
    return mistake.message


@settings(max_examples=300, deadline=None)
@given(st.sets(NAMES | ODD, min_size=1, max_size=5), st.data())
@example({"row"}, None)
def test_every_column_can_be_printed_by_what_in_template_says(names: set[str], data: st.DataObject | None) -> None:
    """Whatever a column is called, and whatever stands beside it, its advice prints just its cell."""
    columns = sorted(names)
    name = columns[0] if data is None else data.draw(st.sampled_from(columns))
    if "row" in names and "row[" in in_template(name):
        return  # a column named row keeps its name: the others of odd names need input.query
    cells = {column: f"cell {index}" for index, column in enumerate(columns)}
    assert cells[name] == rendered(in_template(name), cells)


@pytest.mark.parametrize(
    ("template", "columns", "advice"),
    [
        ("{{ label-coarse }}", ["label-coarse"], 'write {{ row["label-coarse"] }}'),
        ("{{ label-coarse }}", ["label-coarse", "label", "coarse"], 'write {{ row["label-coarse"] }}'),
        ("{{ label-coarse }}", ["label-coarse", "label", "coarse"], "is meant, write {{ label - coarse }}"),
        ("{% if label-coarse %}x{% endif %}", ["label-coarse", "label", "coarse"], 'row["label-coarse"]'),
        ("{{ label-coarse | upper }}", ["label-coarse"], 'row["label-coarse"]'),
        ("{{ label\u2011coarse }}", ["label-coarse"], 'row["label-coarse"]'),
        ("{{ label-coarse }}", ["label\u2011coarse"], "U+2011 NON-BREAKING HYPHEN"),
        ("{{ Tweet text }}", ["Tweet text"], 'row["Tweet text"]'),
        ("{{ Tweet\u00a0text }}", ["Tweet text"], 'row["Tweet text"]'),
        ("{{ text }}", ["text "], "a blank at its end"),
        ("{{ text }}", ["\ufefftext"], "U+FEFF"),
        ("{{ na\u00efve }}", ["nai\u0308ve"], "U+0308"),
        ("{{ meta.author }}", ["meta.author", "meta"], 'row["meta.author"]'),
        ("{{ meta.author }}", ["meta.author", "meta"], 'write {{ meta["author"] }}'),
        ("{{ 1st }}", ["1st"], 'row["1st"]'),
        ("{{ 2024 }}", ["2024"], 'row["2024"]'),
        ("{{ true }}", ["true"], 'row["true"]'),
        ("{{ none | upper }}", ["none"], 'row["none"]'),
        ("{{ self }}", ["self"], 'row["self"]'),
        ("{{ price ($) }}", ["price ($)"], 'row["price ($)"]'),
        ("{{ a/b }}", ["a/b", "a", "b"], 'row["a/b"]'),
        ("{{ what's new? }}", ["what\u2019s new?"], "input.query"),
    ],
)  # fmt: skip
def test_a_name_that_the_engine_reads_otherwise_is_refused_with_what_to_write(
    template: str, columns: list[str], advice: str
) -> None:
    """Nothing is sent for `{{ label-coarse }}` where that is a column: the advice names the column."""
    assert advice in complaint(template, *columns)


@pytest.mark.parametrize(
    ("template", "cells", "text"),
    [
        ("{{ a - b }}", {"a": 7, "b": 3}, "4"),
        ("{{ a-b }}", {"a": 7, "b": 3}, "4"),
        ("{{ a * 3.5 }}", {"a": 2, "3.5": 0}, "7.0"),
        ("{{ 'label-coarse' }}", {"label-coarse": 1}, "label-coarse"),
        ("label-coarse {# {{ label-coarse }} #}", {"label-coarse": 1}, "label-coarse "),
        ("{% raw %}{{ a b }}{% endraw %}", {"a b": 1}, "{{ a b }}"),
        ("{{ a if a is not none }}", {"a": "x", "none": 1}, "x"),
        ("{% if not a %}x{% endif %}", {"a": False, "not a": 1}, "x"),
        ("{{ row.a }} {{ row['b c'] }}", {"a": 1, "b c": 2}, "1 2"),
        ("{{ row | length }}", {"a": 1, "b c": 2}, "2"),
        ("{% for name in row %}{{ name }}={{ row[name] }};{% endfor %}", {"a": 1, "b c": 2}, "a=1;b c=2;"),
        ("{{ row | tojson }}", {"a": "x", "b c": None}, '{"a": "x", "b c": null}'),
        ("{{ row }}", {"row": "mine"}, "mine"),
        ("{% for row in a %}{{ row.x }}{% endfor %}", {"a": []}, ""),
    ],
)  # fmt: skip
def test_what_is_meant_as_code_stays_code_and_row_is_the_whole_row(
    template: str, cells: dict[str, Any], text: str
) -> None:
    """Calculations, texts, comments and words of the language mean what they always meant."""
    kinds = {
        name: pa.list_(pa.string()) if value == [] else pa.array([value]).type for name, value in cells.items()
    }
    spec = SimpleNamespace(**{**dict.fromkeys(KEYS), "user": template})
    made = Renderer(spec, schema=pa.schema(list(kinds.items())), folders=Folders(Path()), job_source="job.yaml")
    try:
        values = {name: cells[name] for name in made.columns}
        assert text == made.render(Row(position=0, row_id=0, values=values)).messages[0]["content"]
    finally:
        made.close()


def test_only_the_columns_that_row_is_asked_for_are_read() -> None:
    """`row["b c"]` reads one column; a name that no column has is a mistake before any row."""
    schema = pa.schema([("a", pa.string()), ("b c", pa.string())])
    spec = SimpleNamespace(**{**dict.fromkeys(KEYS), "user": '{{ row["b c"] }}'})
    made = Renderer(spec, schema=schema, folders=Folders(Path()), job_source="job.yaml")
    assert ("b c",) == made.columns
    made.close()
    assert "there is no column 'b d'; did you mean 'b c'?" in complaint('{{ row["b d"] }}', "a", "b c")


@pytest.mark.parametrize("template", ['{{ row["b c"] }}', '{{ row["b c"] | upper }}', "{{ row['b c'] * 2 }}"])
def test_a_null_of_row_is_told_as_its_columns(template: str) -> None:
    """A null read by way of `row` is refused, and it is the column that is named."""
    with pytest.raises(RowRejected, match=r"column 'b c'|'b c'|none"):
        rendered(template, {"a": None, "b c": None})


def test_graders_read_row_too() -> None:
    """`expected` names a column of any name."""
    grader = {"name": "right", "grader": "exact", "expected": '{{ row["right answer"] }}'}
    job = Job(model="m", prompt={"user": "x"}, score=[grader])
    schema = pa.schema([("right answer", pa.string()), ("other", pa.string())])
    templates = ScoreTemplates(job.score, schema=schema, job_source="job.yaml")
    try:
        assert ("right answer",) == templates.columns
        assert "yes" == templates.render('{{ row["right answer"] }}', {"right answer": "yes", "other": "no"})
    finally:
        templates.close()
