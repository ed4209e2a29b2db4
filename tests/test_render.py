"""The renderer: what a prompt looks like, what is refused before any row, what rejects one row and no other."""

from __future__ import annotations

import datetime
import gc
import time
import weakref
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crun_batch.errors import InputError
from crun_batch.load.folders import Folders
from crun_batch.load.prompt import confined, parts
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.load.prompt.render import Renderer
from crun_batch.load.prompt.template_check import compile_template
from crun_batch.load.prompt.templates import environment
from crun_batch.records import Prompt, Row

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("other", pa.string()),
        ("n", pa.int64()),
        ("price", pa.decimal128(38, 20)),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("tags", pa.list_(pa.string())),
        ("meta", pa.struct([("k", pa.string()), ("v", pa.decimal128(10, 2))])),
        ("raw", pa.binary()),
        ("chat", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())]))),
    ]
)
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 10


def renderer(base_dir: Path = Path(), **prompt: Any) -> Renderer:
    keys = ("system", "user", "messages", "messages_column", "body_column", "turns")
    spec = SimpleNamespace(**{**dict.fromkeys(keys), **prompt})
    return Renderer(spec, schema=SCHEMA, folders=Folders(base_dir), job_source="job.yaml")


def row(**values: Any) -> Row:
    return Row(position=17, row_id="r17", values={**dict.fromkeys(SCHEMA.names), **values})


def user_text(template: str, **values: Any) -> str:
    made = renderer(user=template)
    try:
        return str(made.render(row(**values)).messages[0]["content"])
    finally:
        made.close()


def rejection(template: str, **values: Any) -> str:
    with pytest.raises(RowRejected) as caught:
        user_text(template, **values)
    return str(caught.value)


def mistakes(**prompt: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        renderer(**prompt)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_messages_come_in_the_order_system_history_user() -> None:
    """The system text opens, the given messages follow, the row's question ends."""
    made = renderer(system="S", messages=[{"role": "assistant", "content": "A {{ n }}"}], user="U {{ text }}\n")
    expected = ({"role": "system", "content": "S"}, {"role": "assistant", "content": "A 3"})
    assert (*expected, {"role": "user", "content": "U x\n"}) == made.render(row(text="x", n=3)).messages


def test_columns_are_those_that_the_prompt_names() -> None:
    """Nothing else is read from the table; their order is the table's."""
    assert ("text", "n") == renderer(
        system="{{ n }}", user="{{ text }} {% for i in range(2) %}{{ i }}{% endfor %}"
    ).columns


@given(st.text())
@settings(deadline=None, max_examples=100)
def test_text_goes_through_unchanged(text: str) -> None:
    """Whatever a cell holds, markup, braces, newlines: it is in the prompt as it is."""
    assert f"<{text}>\n" == FAST.render(row(text=text)).messages[0]["content"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ text[:3] }}", "abc"),
        ("{{ text[2:] }}", "cdef"),
        ("{{ text[1:3] }}", "bc"),
        ("{{ text[-2:] }}", "ef"),
        ("{{ text[:] }}", "abcdef"),
        ("{{ text[::2] }}", "ace"),
        ("{{ (text)[:2] }}", "ab"),
        ("{{ text[:n] }}{{ ':[' }}", "abcd:["),
        ("{{ (text|upper)[:2] }}", "AB"),
        ("{{ tags[1:]|join(',') }}", "y,z"),
        ("{% for tag in tags[:2] %}{{ tag }}{% endfor %}", "xy"),
        ("{{ meta.k[:1] }}{{ {'a': tags[0:1]}.a[0] }}", "vx"),
        ("{{ [text[:1], {'a': [text[1:2]]}][0] }}", "a"),
        ("{% if text[:1] == 'a' %}{{ text[1 if n else 2:] }}{% endif %}", "bcdef"),
    ],
)
def test_what_a_slice_is_taken_of_is_a_column(template: str, expected: str) -> None:
    """The engine's own list of names leaves it out."""
    assert expected == user_text(template, text="abcdef", tags=["x", "y", "z"], meta={"k": "vw", "v": None}, n=4)


def test_a_slice_of_no_column_is_a_mistake() -> None:
    with pytest.raises(InputError, match="there is no column 'txt'; did you mean 'text'"):
        renderer(user="{{ txt[:3] }}")


FAST = renderer(user="<{{ text }}>\n")


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("{{ price }}", {"price": Decimal("0.10000000000000000001")}, "0.10000000000000000001"),
        ("{{ price }}", {"price": Decimal("1E-20")}, "0.00000000000000000001"),
        ("{{ day }}", {"day": datetime.date(2026, 1, 2)}, "2026-01-02"),
        ("{{ at }}", {"at": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)}, "2026-01-02T00:00:00+00:00"),
        ("{{ meta.v }}", {"meta": {"k": "a", "v": Decimal("1.50")}}, "1.50"),
        ("{{ meta|tojson }}", {"meta": {"k": "<é>", "v": None}}, '{"k": "<é>", "v": null}'),
        ("{{ (text|fromjson).a[1] }}", {"text": '{"a": [1, "ü"]}'}, "ü"),
        ("{{ tags|join(', ') }}", {"tags": ["a", "b"]}, "a, b"),
        ("{{ text|replace('a', 'b') }}", {"text": "aXa"}, "bXb"),
        ("{% for tag in tags %}{{ loop.index }}. {{ tag }}\n{% endfor %}", {"tags": ["a", "b"]}, "1. a\n2. b\n"),
        ("{% set a = text %}{{ a }}", {"text": "x"}, "x"),
        ("{{ n * 3 }}", {"n": 4}, "12"),
        ("{% raw %}{{ nothing }}{% endraw %}", {}, "{{ nothing }}"),
    ],
)
def test_values_are_shown_exactly(template: str, values: dict[str, Any], expected: str) -> None:
    """Decimals keep every digit, dates are ISO 8601, JSON is not escaped for HTML."""
    assert expected == user_text(template, **values)


@pytest.mark.parametrize(
    "template",
    [
        "{{ text }}",
        "{{ text ~ '!' }}",
        "{{ text|upper }}",
        "{{ text|trim }}",
        "{{ other }} {{ [text, 'a'] }}",
        "{{ '%s'|format(text) }}",
        "{{ text|string|lower }}",
        "{{ text[:3] }}",
        "{% if other %}{{ (text)[1:] }}{% endif %}",
    ],
)
def test_a_printed_null_rejects_the_row(template: str) -> None:
    """No model is ever asked about "None": the row is rejected, with the column and the way out named."""
    message = rejection(template, other="None of these")
    assert message.startswith("row 17 (id 'r17'), prompt.user: column 'text' is null here")
    assert "{{ text or 'none given' }}" in message


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% if text %}{{ text }}{% else %}none given{% endif %}", "none given"),
        ("{% if text is none %}None{% endif %}", "None"),
        ("{% if text == none %}-{% endif %}", "-"),
        ("{{ text or 'd' }}", "d"),
        ("{{ text|default('None', true) }}", "None"),
        ("{{ text|tojson }}", "null"),
        ("{{ (text or 'default')[:3] }}", "def"),
        ("{% if text %}{{ text[:3] }}{% else %}-{% endif %}", "-"),
        ("{% if text is not none %}{{ text[:3] }}{% endif %}{{ other[:2] }}", "No"),
        ("{{ other ~ '!' }}{% if text %}{% endif %}", "None of these!"),
    ],
)
def test_a_null_may_be_asked_about(template: str, expected: str) -> None:
    """Conditions and defaults are what nulls are for, and the word none in a text is no null."""
    assert expected == user_text(template, other="None of these")


@pytest.mark.parametrize(
    "template", ["{{ tags }}", "{{ tags|join(',') }}", "{{ tags[1] }}", "{% for t in tags %}{{ t }}{% endfor %}"]
)
def test_a_null_inside_a_list_is_a_null(template: str) -> None:
    """Nested nulls are refused like others."""
    assert "null" in rejection(template, tags=["a", None])


def test_a_missing_nested_key_is_an_error() -> None:
    """Undefined is never the empty text; the reason is one line and holds nothing else of the row."""
    message = rejection("\n{{ meta.nokey }} {{ text }}", meta={"k": "a", "v": None}, text="secret")
    assert "row 17 (id 'r17'), prompt.user: `meta.nokey` is undefined (line 2 of the template)" == message


@pytest.mark.parametrize(
    ("template", "text", "told"),
    [
        (
            "{{ text.a }}",
            '{"a": 1}',
            "`text.a` is undefined (line 1 of the template): 'text' is a text here; of JSON",
        ),
        ("{{ text.a }}", '{"a": 1}', "write {{ (text | fromjson).a }}"),
        ("{{ text['a b'][0] }}", '{"a b": [1]}', "write {{ (text | fromjson)['a b'] }}"),
        ("{% for t in text.tags %}{{ t }}{% endfor %}", "{}", "write {{ (text | fromjson).tags }}"),
        ("{{ (text | fromjson).a }}", "a, b", "fromjson takes JSON, and the text is none: "),
    ],
)
def test_json_in_a_text_is_told_how_it_is_read(template: str, text: str, told: str) -> None:
    """Objects of a JSONL file come as text: who reads a key of one is told the filter."""
    assert told in rejection(template, text=text)


def test_templates_cannot_change_a_row() -> None:
    """A row is rendered for every variant: a method that changes a list works on a copy."""
    values = {"tags": ["a"]}
    assert "['a', 'b']" == user_text("{% if tags.append('b') %}{% endif %}{{ tags }}", **values)
    assert ["a"] == values["tags"]


def test_every_mistake_is_found_at_once() -> None:
    """Syntax, names, filters, tests and other files, of all texts, before any row is read."""
    found = mistakes(
        system="\n{{ txt }} {{ text|uper }} {{ n is nope }}\n{% include 'x' %}",
        user="{{ text }",
        messages=[{"role": "user", "content": [{"type": "text", "text": "{{ raw }}"}]}],
    )
    assert [
        "job.yaml, prompt.system: line 2 of the template: there is no column 'txt'; did you mean 'text'?",
        "job.yaml, prompt.system: line 2 of the template: there is no filter 'uper'",
        "job.yaml, prompt.system: line 2 of the template: there is no test 'nope'",
    ] == found[:3]
    assert "prompt.system: line 3 of the template: 'include' is not available" in found[3]
    assert "prompt.messages[0].content[0].text: column 'raw' holds raw bytes" in found[4]
    assert "prompt.user: line 1 of the template: unexpected `}`" in found[5]
    assert 6 == len(found)


def test_a_name_that_resembles_nothing_gets_the_list() -> None:
    """Where no name is near, the columns are listed."""
    assert "the columns are: text, other, n" in mistakes(user="{{ zzzzzz }}")[0]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ({"messages_column": "chatt"}, "prompt.messages_column: there is no column 'chatt'; did you mean 'chat'?"),
        (
            {"body_column": "n"},
            "prompt.body_column: column 'n' is of type int64; JSON text or nested values are needed",
        ),
    ],
)
def test_a_column_prompt_needs_a_fit_column(prompt: dict[str, str], expected: str) -> None:
    """Missing columns and columns that cannot hold JSON are mistakes of the job, not of its rows."""
    assert [f"job.yaml, {expected}"] == mistakes(**prompt)


ENDLESS = {
    "a long loop": "{% for i in range(90000) %}{{ text }}{% endfor %}",
    "nested loops": "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "a repeated text": "{{ 'x' * 1000000000 }}",
    "a wide format": "{{ '%10000000000d'|format(1)|length }}",
    "forty doublings": "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a ~ a %}" * 40 + "{{ a|length }}",
    "a namespace that doubles": "{% set n = namespace(s='aaaaaaaa') %}"
    "{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "squared replacement": "{{ text|replace('a', text)|replace('a', text) }}",
    "a long text printed often": "{% for i in range(2000) %}{{ text }}{% endfor %}",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_template_that_grows_without_end_costs_one_row(template: str) -> None:
    """Steps, memory and time are bounded: the row is rejected within seconds and the process lives on."""
    started = time.monotonic()
    assert "prompt.user: " in rejection(template, text="a" * 10_000)
    assert confined.SECONDS + 2 > time.monotonic() - started


def test_after_a_broken_limit_the_next_row_renders() -> None:
    """The child process is started anew. Newer engines count such a text as steps, before it takes the memory."""
    made = renderer(user="{{ ('%' ~ text ~ 'd')|format(n) }}")
    with pytest.raises(RowRejected, match=r"512 MB|steps"):
        made.render(row(text="10000000000", n=1))
    assert "  1" == made.render(row(text="3", n=1)).messages[0]["content"]
    made.close()


def test_a_renderer_that_nobody_holds_is_freed() -> None:
    """Many jobs in one process do not add up: no engine holds itself."""
    made = renderer(user="{{ text }}")
    made.close()
    held = [weakref.ref(part) for part in (made, made._careful)]
    del made
    gc.collect()
    assert [None, None] == [part() for part in held]


def test_a_text_over_the_cap_is_rejected() -> None:
    """No request of tens of megabytes leaves by accident."""
    assert "10,000,000" in rejection("{{ text }}", text="a" * 10_000_001)


@pytest.mark.parametrize(
    ("source", "way"),
    [
        ("* set {{ text }}", "fast"),
        ("{{ text ~ other }}", "fast"),
        ("{% if text %}{{ text }}{% endif %}", "fast"),
        ("{# {{ text * 2 }} #}{{ text }}", "fast"),
        ("{% set a = text|trim %}{{ a }}", "fast"),
        ("{{ tags }}", "careful"),
        ("{% for i in range(3) %}{% endfor %}", "careful"),
        ("{% for i in range(3) %}" + "x" * 5000 + "{% endfor %}", "confined"),
        ("{{ '}}' * 3 }}", "confined"),
        ("{% macro m() %}{% endmacro %}", "confined"),
        ("no tags", "constant"),
    ],
)
def test_the_way_of_a_template_is_chosen_by_its_code(source: str, way: str) -> None:
    """Only code counts, not the text around it; what could multiply memory goes to the child process."""
    template, found = compile_template(source, key="k", columns=SCHEMA.names, nested_columns={"tags"}, file="f")
    assert ([], way) == (found, template.way)


@pytest.mark.parametrize("messages", [[{"role": "user", "content": "hi", "x": [1.5, None]}], [{"role": "tool"}]])
def test_messages_of_a_row_pass_as_they_are(messages: list[Any]) -> None:
    """JSON text keeps every field, known or not."""
    made = renderer(messages_column="text")
    assert tuple(messages) == made.render(row(text=orjson.dumps(messages).decode())).messages


def test_nested_messages_lose_only_what_arrow_added() -> None:
    """A struct has all fields in every row: the null ones were absent."""
    chat = [{"role": "user", "content": "hi", "name": None}]
    assert ({"role": "user", "content": "hi"},) == renderer(messages_column="chat").render(row(chat=chat)).messages


@pytest.mark.parametrize(
    "text", [None, "", "{}", "[]", "[1]", '[{"content": "x"}]', '[{"role": 1}]', "[{]", '["\\ud800"]']
)
def test_broken_messages_reject_the_row(text: str | None) -> None:
    """The message names row, id and column."""
    with pytest.raises(RowRejected, match=r"row 17 \(id 'r17'\), column 'text': it"):
        renderer(messages_column="text").render(row(text=text))


def test_a_body_goes_byte_for_byte() -> None:
    """Spaces, key order, number forms: what the row has is what is sent."""
    body = ' {"b": 1.00, "a": "é\\u00e9" }\n'
    assert Prompt(body=body.encode()) == renderer(body_column="text").render(row(text=body))
    assert Prompt(body=b"{}") == renderer(body_column="raw").render(row(raw=b"{}"))


def test_a_nested_body_becomes_compact_json() -> None:
    """Decimals stay exact numbers."""
    body = renderer(body_column="meta").render(row(meta={"k": None, "v": Decimal("1.50")})).body
    assert b'{"v":1.50}' == body


@pytest.mark.parametrize("text", [None, "[]", "1", "{", '{"a": NaN}'])
def test_a_body_that_is_no_object_rejects_the_row(text: str | None) -> None:
    """Anything else would be paid for and refused."""
    with pytest.raises(RowRejected, match="column 'text'"):
        renderer(body_column="text").render(row(text=text))


def part_prompt(tmp_path: Path, part: dict[str, Any], **values: Any) -> Prompt:
    return renderer(tmp_path, messages=[{"role": "user", "content": [part]}]).render(row(**values))


def test_a_url_stays_a_url_and_is_counted(tmp_path: Path) -> None:
    """The gateway fetches it, so its tokens are bounded by no byte of ours."""
    prompt = part_prompt(
        tmp_path, {"type": "image", "image": "{{ text }}", "detail": "low"}, text="https://x/a.png"
    )
    assert [{"type": "image", "url": "https://x/a.png", "detail": "low"}] == prompt.messages[0]["content"]
    assert 1 == prompt.remote_parts


def test_a_local_file_becomes_a_data_url(tmp_path: Path) -> None:
    """By its first bytes, whatever its name; a changed file is read again."""
    (tmp_path / "a.bin").write_bytes(PNG)
    made = renderer(
        tmp_path, messages=[{"role": "user", "content": [{"type": "image", "image": "{{ text }}.bin"}]}]
    )
    prompt = made.render(row(text="a"))
    assert "data:image/png;base64,iVBORw0KGgowMDAwMDAwMDAw" == prompt.messages[0]["content"][0]["url"]
    assert (0, True) == (prompt.remote_parts, made.reads_local_files)
    (tmp_path / "a.bin").write_bytes(b"GIF89a")
    assert made.render(row(text="a")).messages[0]["content"][0]["url"].startswith("data:image/gif")


def test_a_file_keeps_its_name(tmp_path: Path) -> None:
    """Protocols that show a file name get the path's last part."""
    (tmp_path / "d.pdf").write_bytes(b"%PDF-1.7")
    prompt = part_prompt(tmp_path, {"type": "file", "file": "./d.pdf"})
    expected = {"type": "file", "url": "data:application/pdf;base64,JVBERi0xLjc=", "filename": "d.pdf"}
    assert [expected] == prompt.messages[0]["content"]


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("no.png", "No such file or directory"),
        ("folder", "is not a regular file"),
        ("/etc/passwd", "is outside the job.s folder"),
        ("s3://b/a.png", "neither an http"),
        ("note.txt", "is no image"),
        ("large.png", "at most 20,000,000 are sent"),
        ("", "neither an http"),
        ("a\x00.png", "null (byte|character)"),
    ],
)
def test_a_file_that_cannot_go_rejects_the_row(tmp_path: Path, reference: str, reason: str) -> None:
    """With the job key and the path; files of unknown type stay at home."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "note.txt").write_text("x")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(parts.MAX_FILE_BYTES + 1)
    with pytest.raises(RowRejected, match=reason) as caught:
        part_prompt(tmp_path, {"type": "image", "image": "{{ text }}"}, text=reference)
    assert "row 17 (id 'r17'), prompt.messages[0].content[0].image: " in str(caught.value)


def test_remembered_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache forgets the least recently used, never the one just asked for."""
    monkeypatch.setattr(parts, "MAX_CACHE_CHARACTERS", 60)
    attachments = parts.Attachments(Folders(tmp_path))
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
        assert attachments.url(f"{name}.txt", image=False).startswith("data:text/plain;base64,")
    assert 60 >= sum(map(len, attachments._cache.values()))


def test_other_parts_pass_through_with_their_texts_rendered(tmp_path: Path) -> None:
    """An OpenAI-style part keeps its shape; a URL in it is counted."""
    part = {"type": "image_url", "image_url": {"url": "https://x/{{ n }}.png", "detail": "low"}}
    prompt = part_prompt(tmp_path, part, n=3)
    expected = {"type": "image_url", "image_url": {"url": "https://x/3.png", "detail": "low"}}
    assert ([expected], 1) == (prompt.messages[0]["content"], prompt.remote_parts)


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"messages": [{"role": "user", "content": "https://x"}]}, 0),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "https://x"}]}]}, 0),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}
                ]
            },
            1,
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}, 0),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}, 1),
        ({"input": [{"type": "item_reference", "id": "i"}], "previous_response_id": "r"}, 2),
    ],
)
def test_what_a_body_refers_to_is_counted(body: dict[str, Any], count: int) -> None:
    """URLs, ids of files and earlier replies are input that the body's bytes do not bound; texts are not."""
    assert count == renderer(body_column="text").render(row(text=orjson.dumps(body).decode())).remote_parts


PRINTED = st.sampled_from(
    ["{{ a }}", "{{b}}", "{{\n a\t}}", "{{- a -}}", "{{ a|upper }}", "{# c #}", "{% if a %}{% endif %}"]
)
AROUND = st.text(st.sampled_from("x \n\r\t{}%#é\u2028"), max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PRINTED, AROUND), max_size=6).map("".join), st.text(max_size=8), st.text(max_size=8))
def test_columns_put_together_without_the_engine_read_as_with_it(source: str, a: str, b: str) -> None:
    """The short way is taken for plain templates alone, and gives the engine's text."""
    template, found = compile_template(source, key="k", columns=["a", "b"], nested_columns=[], file="job")
    joined = template.joined({"a": a, "b": b})

    if found or joined is None:
        return
    engine = environment()
    engine.add_template("k", source)
    assert engine.render_template("k", a=a, b=b) == joined


def test_a_plain_template_is_put_together_without_the_engine() -> None:
    """Literal text and printed columns; what is no text, or more than a column, goes through the engine."""
    template, _ = compile_template("Q: {{ a }}!\n", key="k", columns=["a"], nested_columns=[], file="job")

    assert "Q: {{x}}!\n" == template.joined({"a": "{{x}}"})
    assert template.joined({"a": 7}) is None
