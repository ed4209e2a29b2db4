"""The local page's server: it answers one reader, shows what is recorded, and changes nothing."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from measurements.made_up_run import LABELS, make_run
from page_run_kit import HOSTILE, OTHER, PLAIN, PNG, Asker
from page_run_kit import make_run as make_hostile_run
from said_gateway import gateway

import crun_batch
from crun_batch.load.job.job import load_job
from crun_batch.page.asked import rows_asked
from crun_batch.page.certain_text import certain_text
from crun_batch.page.guard import PAGE_HEADERS, Policy, denial
from crun_batch.page.held import HeldRoom
from crun_batch.page.live import LiveStatus
from crun_batch.page.rows import RunRows, as_json, told, with_unanswered
from crun_batch.page.shown_runs import ShownRun
from crun_batch.pricing.projection import projected_pico
from crun_batch.records import PICO
from crun_batch.reporting.spoken import PICTURE_KINDS, pictures
from crun_batch.store.directory import RunDirectory, open_directory
from crun_batch.store.schema import attempts_schema, no_rows, parts_schema
from crun_batch.store.seal import put_in_place, write_parquet
from crun_batch.store.views import Snapshot, attempts_frame, results_frame, run_schema, snapshot

ROWS = 300
HOST = ("host", "127.0.0.1:8000")
LINK = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]
"""What a browser says of a link on another site."""
TOKEN = ("x-crun-batch-token", "secret")
POLICY = Policy("secret")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sealed files, and a fourth whose finals replace some of the first."""
    path = tmp_path_factory.mktemp("made") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("measurements.made_up_run.ROWS_PER_SEGMENT", ROWS // 3)
        make_run(path, ROWS)
    replace_some(path, 4)
    return path


def replace_some(path: Path, number: int) -> None:
    """Seal a file with other finals of each seventh unit of the first."""
    run = open_directory(path, started_at="2026-01-01T00:00:00Z")
    schema = run_schema(run)
    part = pl.read_parquet(run.part(1))[::7]
    later = part.with_columns(
        pl.lit(value=True).alias("_supersedes"),
        (pl.int_range(part.height) + number * 2**32).alias("_sequence"),
        pl.lit("replaced").alias("output_text"),
        pl.lit(None).cast(part.schema["output"]).alias("output"),
        pl.lit("invalid").alias("status"),
    )
    columns = parts_schema(schema)
    entries = [
        write_parquet(run, run.part(number), columns, [later.to_arrow().select(columns.names).cast(columns)]),
        write_parquet(run, run.attempt_file(number), attempts_schema(schema), [no_rows(attempts_schema(schema))]),
    ]
    put_in_place(run, [run.part(number), run.attempt_file(number)], entries)
    run.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hostile_run(tmp_path_factory.mktemp("hostile"), 20)


@pytest.fixture(scope="module")
def asker(hostile: Path) -> Iterator[Asker]:
    with crun_batch.view(hostile) as page:
        yield Asker(page)


# Who may ask --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "path", "headers"),
    [
        (None, "/", [HOST]),
        (None, "/", [("host", "localhost:9")]),
        (None, "/", [("host", "LOCALHOST")]),
        (None, "/", [("host", "[::1]:8000")]),
        (421, "/", []),
        (421, "/", [HOST, HOST]),
        (421, "/", [("host", "evil.example")]),
        (421, "/", [("host", "127.0.0.1.evil.example:8000")]),
        (421, "/", [("host", "evil@127.0.0.1")]),
        (421, "/", [("host", "127.0.0.1/x")]),
        (421, "/", [("host", "127.0.0.1:x")]),
        (421, "/", [("host", "192.168.0.7")]),
        (421, "/", [("host", "")]),
        (None, "/", [HOST, ("origin", "http://127.0.0.1:8000")]),
        (403, "/", [HOST, ("origin", "http://127.0.0.1:8001")]),
        (403, "/", [HOST, ("origin", "https://127.0.0.1:8000")]),
        (403, "/", [HOST, ("origin", "null")]),
        (403, "/", [HOST, ("origin", "http://127.0.0.1:8000"), ("origin", "http://127.0.0.1:8000")]),
        (403, "/static/page.js", [HOST, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]),
        (403, "/", [HOST, ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")]),
        (403, "/", [HOST, *LINK, ("sec-fetch-dest", "iframe")]),
        (None, "/", [HOST, *LINK, ("sec-fetch-dest", "document")]),
        (401, "/api/rows", [HOST]),
        (401, "/api/rows", [HOST, ("x-crun-batch-token", "secrets")]),
        (401, "/api/rows", [HOST, ("x-crun-batch-token", "sécret")]),
        (401, "/api/rows", [HOST, TOKEN, TOKEN]),
        (None, "/api/rows", [HOST, TOKEN]),
        (None, "/api/rows", [HOST, TOKEN, ("sec-fetch-site", "same-origin")]),
        (403, "/api/rows", [HOST, TOKEN, *LINK, ("sec-fetch-dest", "document")]),
        (403, "/api/rows", [HOST, TOKEN, ("origin", "https://evil.example")]),
    ],
)  # fmt: skip
def test_only_this_page_with_its_token_is_answered(
    status: int | None, path: str, headers: list[tuple[str, str]]
) -> None:
    found = denial(POLICY, "GET", path, headers)
    assert status == (found.status if found else None)


@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_no_other_name_is_ours(name: str) -> None:
    """Whatever a Host header holds, it is refused or names this machine."""
    found = denial(POLICY, "GET", "/", [("host", name)])
    assert found is not None or re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:\d*)?", name, re.IGNORECASE)


def test_beyond_loopback_an_address_in_digits_is_ours_and_no_name_is() -> None:
    """What DNS can point here is refused all the same, but for the name that was given."""
    open_policy = Policy("secret", ("localhost", "box.lan"), any_address=True)
    answered = [
        denial(open_policy, "GET", "/", [("host", name)]) is None for name in ("10.0.0.7:1", "box.lan", "x.y")
    ]
    assert [True, True, False] == answered


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "POST", "TRACE", "CONNECT"])
def test_a_page_is_only_read(method: str) -> None:
    found = denial(POLICY, method, "/", [HOST, TOKEN])
    assert found is not None and 405 == found.status


def test_every_answer_carries_the_policy(asker: Asker) -> None:
    """Pages, documents, refusals, what is not there: nothing from elsewhere may be loaded, nothing be framed."""
    asked = [(path, {}) for path in ("/", "/static/page.js", "/nowhere", "/api/rows")]
    for path, headers in [*asked, ("/api/rows", asker.token), ("/api/row?id=no", asker.token)]:
        _, found, _ = asker.raw(path, headers)
        assert dict(PAGE_HEADERS) == {name: found[name] for name in PAGE_HEADERS}, path
        assert "server" not in found and "set-cookie" not in found
    assert "default-src 'none'" in PAGE_HEADERS["content-security-policy"]


def test_over_the_wire_a_stranger_gets_no_row(asker: Asker) -> None:
    """Without the token, under another name, from another site."""
    for headers in ({}, {**asker.token, "Host": "evil.example"}, {**asker.token, "Origin": "http://evil.example"}):
        status, _, body = asker.raw("/api/rows?column=text", headers)
        assert status in (401, 403, 421) and b"Row" not in body
    assert 405 == asker.raw("/api/rows", asker.token, "DELETE")[0]


def test_no_path_leads_out_of_the_page(asker: Asker) -> None:
    for path in (
        "/static/../guard.py",
        "/static/%2e%2e/guard.py",
        "/static//etc/passwd",
        "/static/",
        "/index.html",
    ):
        assert 404 == asker.raw(path)[0], path


def test_only_listed_runs_are_opened(hostile: Path, tmp_path: Path) -> None:
    """A run beside, however it is named, is none of this page's."""
    make_run(tmp_path / "other", 12)
    with crun_batch.view(hostile) as page:
        asker = Asker(page)
        for name in (str(tmp_path / "other"), f"{hostile}/../../other", "../other", "/"):
            assert "shows no such run" in asker.get("rows", run=name)["error"]


def test_the_page_itself_names_nothing_elsewhere_and_makes_no_markup() -> None:
    folder = Path(crun_batch.__file__).parent / "page" / "static"
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"https?://|//\w+\.\w|@import|url\(", text), file.name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|\sstyle=", text
        )


def test_the_command_prints_one_address_and_no_text_of_a_row(hostile: Path, tmp_path: Path) -> None:
    """Whatever is asked and refused, also where it fails inside; Ctrl-C ends it."""
    command = [sys.executable, "-m", "crun_batch", "view", str(hostile), "--no-open"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(crun_batch.__file__).parent.parent),
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stderr is not None
    url = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=[\w-]{40,}", url)
    view = type("Printed", (), {"url": url})
    asker = Asker(view)  # type: ignore[arg-type]
    assert asker.get("rows", q="SECRETWORD", column="text")["rows"] == []
    assert "error" in asker.get("rows", where="SECRETWORD(((")
    assert "error" in asker.get("row", id="SECRETWORD")
    assert asker.get("row", id="r1")["units"]
    asker.raw("/SECRETWORD", {"Host": "SECRETWORD"})
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert 130 == process.returncode
    assert "" == out and "Ctrl-C ends it\nCtrl-C: ended; what was recorded stays; the run is left alone\n" == err


def test_a_port_that_is_taken_or_a_place_without_runs_is_said(tmp_path: Path, hostile: Path) -> None:
    with crun_batch.view(hostile) as page:
        port = int(page.url.split(":")[2].split("/")[0])
        with pytest.raises(crun_batch.InputError, match="cannot be listened on"):
            crun_batch.view(hostile, port=port)
    with pytest.raises(crun_batch.InputError, match="0 to 65535"):
        crun_batch.view(hostile, port=70_000)
    with pytest.raises(crun_batch.InputError, match="no run directory and no job file"):
        crun_batch.view(tmp_path / "nowhere")
    with crun_batch.view(tmp_path) as page:
        assert "there is no run here yet" == Asker(page).get("facts")["error"]
        assert [] == Asker(page).get("runs")


def test_looking_changes_no_byte_of_a_run(hostile: Path, asker: Asker) -> None:
    before = digests(hostile)
    for name in ("facts", "status", "failures", "rows", "count"):
        asker.get(name, where="status = 'ok'", differ="1", q="red")
    asker.get("row", id="r1")
    assert before == digests(hostile)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Which rows ---------------------------------------------------------------------------------------


PREDICATES = [None, "output_tokens > 20", "gold = 'praise' -- and so on", "review_id % 2 = 0 or 1 = 0"]
SORTS = [None, "latency_seconds", "-cost_usd", "output", "-review_id", "text", "score_right"]
UNITS = st.fixed_dictionaries(
    {
        "status": st.sets(st.sampled_from(["ok", "invalid", "truncated", "error"]), max_size=2),
        "variant": st.sets(st.sampled_from(["large/short", "small/long"]), max_size=2),
        "score": st.sampled_from([None, "right<1", "right>=0.5", "right:none"]),
        "q": st.sampled_from([None, *LABELS, "PRAISE", "好い", "100%", "'; drop", "review 1", "^.e.lac"]),
        "in": st.sampled_from([None, "text", "output", "gold", "review_id"]),
        "where": st.sampled_from(PREDICATES),
        "differ": st.booleans(),
        "regex": st.booleans(),
        "sort": st.sampled_from(SORTS),
    }
)  # fmt: skip


def is_found(asked: dict[str, Any], text: str) -> bool:
    if asked["regex"]:
        return re.search(asked["q"], text) is not None
    return asked["q"].lower() in text.lower()


def expected(frame: pl.DataFrame, asked: dict[str, Any]) -> list[tuple[int, str]]:
    """The same choice made in Python, row by row."""
    answered = frame.filter(pl.col("output").is_not_null()).group_by("review_id").agg(pl.col("output"))
    differing = {
        row
        for row, labels in answered.rows()
        if len({json.dumps(one, default=str) for one in labels}) > 1
    }  # fmt: skip
    chosen = []
    for row in frame.to_dicts():
        score = row["score_right"]
        texts = {
            "text": row["text"],
            "gold": row["gold"],
            "review_id": str(row["review_id"]),
            "output": None if row["output"] is None else " ".join(map(str, row["output"].values())),
        }
        anywhere = [*texts.values(), row["output_text"], row["error_message"], row["error_kind"], row["variant"],
                    row["model"], row["response_id"], row["finish_reason"], row["status"], row["cost_source"],
                    row["axis_model"], row["axis_prompt"]]  # fmt: skip
        looked = anywhere if asked["in"] is None else [texts[asked["in"]]]
        holds = [
            not asked["status"] or row["status"] in asked["status"],
            not asked["variant"] or row["variant"] in asked["variant"],
            {None: True, "right<1": score is not None and score < 1,
             "right>=0.5": score is not None and score >= 0.5, "right:none": score is None}[asked["score"]],
            asked["q"] is None or any(one is not None and is_found(asked, one) for one in looked),
            {None: True, "output_tokens > 20": row["output_tokens"] > 20,
             "gold = 'praise' -- and so on": row["gold"] == "praise",
             "review_id % 2 = 0 or 1 = 0": row["review_id"] % 2 == 0}[asked["where"]],
            not asked["differ"] or row["review_id"] in differing,
        ]  # fmt: skip
        if all(holds):
            chosen.append((row["review_id"], row["variant"]))
    return chosen


def test_no_script_writes_a_plural_for_one() -> None:
    """What is counted of a row goes through `counted`: 1 request, 2 requests."""
    scripts = Path(crun_batch.__file__).parent / "page" / "static"
    fixed = re.compile(r"\.length\} (requests|rows|units)")
    assert [] == [one.name for one in scripts.glob("*.js") if fixed.search(one.read_text())]


def test_what_a_kill_left_in_flight_is_among_the_failures_as_the_next_session_calls_it() -> None:
    """Counted with its like, before any attempt tells of it; without a kill the failures are as they are."""
    known = {
        "status": "unknown",
        "kind": "unknown_outcome",
        "http_status": None,
        "message": "in flight when the process ended: the gateway may have billed it",
    }
    refused = {"status": "rejected", "kind": "server", "http_status": 500, "message": "no", "count": 3}
    found = {"rows": [], "requests": [refused], "rows_count": 0, "requests_count": 3}
    assert found == with_unanswered(found, 0)
    first = with_unanswered(found, 2)
    assert ([refused, {**known, "count": 2}], 5) == (first["requests"], first["requests_count"])
    second = with_unanswered(first, 4)
    assert ([{**known, "count": 6}, refused], 9) == (second["requests"], second["requests_count"])


@pytest.mark.parametrize("held", ["nothing", "all", "some, and the texts of one file"])
def test_the_rows_are_those_that_were_asked_for(made: Path, held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every filter together with every other: the page, page after page, and the count, against plain Python.

    Whatever of it is held in memory, and whatever is read from the files.
    """
    frame = results_frame(made).collect()
    rows = RunRows(made)
    if held != "nothing":
        monkeypatch.setattr("crun_batch.page.held.LEAST_ROWS", 1)
        if held != "all":
            monkeypatch.setattr("crun_batch.page.held._bytes", len)
            monkeypatch.setattr("crun_batch.page.held.HELD_BYTES", 3)
            monkeypatch.setattr("crun_batch.page.held.TEXT_SHARE", 0.1)
        hold(rows)
        parts = rows.held.parts(now_of(made))
        with_texts = [number for number, part in parts.items() if part.low is not None]
        expected_parts = ([1, 2, 3, 4], [1, 2, 3, 4]) if held == "all" else ([1, 2, 3], [1])
        assert expected_parts == ([*parts], with_texts)

    @settings(deadline=None, max_examples=12, derandomize=True, database=None)
    @given(UNITS)
    def law(asked: dict[str, Any]) -> None:
        given = [(name, value) for name in ("score", "q", "in", "where", "sort") if (value := asked[name])]
        given += [(name, value) for name in ("status", "variant") for value in sorted(asked[name])]
        given += [(name, "1") for name in ("differ", "regex") if asked[name]]
        found: list[tuple[int, str]] = []
        order = []
        for page in range(1, 20):
            wanted = rows_asked(
                [*given, ("page", str(page)), ("rows", "120"), ("column", "latency_seconds")], rows.facets()
            )
            answer = rows.page(wanted)
            found += [(one["id"], one["variant"]) for one in answer["rows"]]
            order += [one["cells"][0] for one in answer["rows"]]
            if answer["is_last"]:
                break
        assert sorted(expected(frame, asked)) == sorted(found)
        assert len(found) == rows.count(wanted)
        assert asked["sort"] != "latency_seconds" or sorted(order) == order

    law()
    rows.close()


def hold(rows: RunRows) -> None:
    """Ask for a page, and wait for what is held after it."""
    rows.page(rows_asked([], rows.facets()))
    rows.held.wait()


def test_one_run_of_a_page_is_held_at_a_time(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was held of the run before goes, also from its open connections; it is answered as before."""
    monkeypatch.setattr("crun_batch.page.held.LEAST_ROWS", 1)
    make_run(tmp_path / "other", 60)
    room = HeldRoom()
    first, second = RunRows(made, room), RunRows(tmp_path / "other", room)
    hold(first)
    part = weakref.ref(next(iter(first.held.parts(now_of(made)).values())).rows)
    assert ROWS < first.held.told().rows and part() is not None
    hold(second)
    gc.collect()
    assert (0, 60) == (first.held.told().rows, second.held.told().rows) and part() is None
    assert ROWS == first.count(rows_asked([], first.facets()))
    first.close(), second.close()


def test_a_file_that_was_written_anew_is_held_anew(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prices that are corrected write the finals' costs anew, under the same names."""
    monkeypatch.setattr("crun_batch.page.held.LEAST_ROWS", 1)
    path = tmp_path / "run"
    shutil.copytree(made, path, symlinks=True)
    rows = RunRows(path)
    hold(rows)
    file = RunDirectory(path).part(2)
    pl.read_parquet(file).with_columns(
        pl.lit(Decimal(7)).cast(pl.Decimal(38, 12)).alias("cost_usd")
    ).write_parquet(file)
    assert 3 == len(rows.held.parts(now_of(path)))
    dear = rows_asked([("where", "cost_usd = 7")], rows.facets())
    assert until(lambda: rows.count(dear), lambda count: count == ROWS // 3)
    hold(rows)
    assert (4, ROWS // 3) == (len(rows.held.parts(now_of(path))), rows.count(dear))
    rows.close()


def test_what_is_nested_is_searched_as_it_is_shown(made: Path) -> None:
    """A cell that is copied into the search field is found."""
    rows = RunRows(made)
    shown = rows.page(rows_asked([("column", "output"), ("status", "ok")], rows.facets()))["rows"][0]["cells"][0]
    for where in ([], [("in", "output")]):
        assert rows.count(rows_asked([("q", shown), *where], rows.facets()))
    rows.close()


def test_the_same_comparison_is_made_once_while_the_run_is_the_same(made: Path, tmp_path: Path) -> None:
    """It takes seconds over a million rows; what people say meanwhile makes it another."""
    path = tmp_path / "run"
    shutil.copytree(made, path, symlinks=True)
    shown = ShownRun(path, HeldRoom())
    first = shown.compared({"gold": "gold"})
    assert first is shown.compared({"gold": "gold", "page": "2"}) and first is not shown.compared({})
    crun_batch.annotate(path, 0, label="praise")
    assert first is not shown.compared({"gold": "gold"})
    shown.rows.close()


def now_of(path: Path) -> Snapshot:
    return snapshot(RunDirectory(path), run_schema(RunDirectory(path)))


@pytest.mark.parametrize(
    "where",
    [
        "true; drop view results",
        "true); drop view results; --",
        "1 = 1) union all select * from attempts --",
        "(select count(*) from read_csv('/etc/passwd')) > 0",
        "(select count(*) from read_text('/etc/passwd')) > 0",
        "(select count(*) from glob('/*')) > 0",
        "exists (from '/etc/passwd')",
        "getenv('HOME') = ''",
        "true; copy (select 1) to 'RUN/stolen.csv'",
        "(copy (select 1) to 'RUN/stolen.csv')",
        "true; attach 'RUN/x.db'",
        "true; set enable_external_access = true",
        "nonsense",
        "status = ",
        "'",
        "--",
    ],
)
def test_no_predicate_reads_or_writes_a_file(made: Path, where: str) -> None:
    """It is refused in words, nothing is written, and the page goes on."""
    before = digests(made)
    rows = RunRows(made)
    with pytest.raises(crun_batch.InputError):
        rows.page(rows_asked([("where", where.replace("RUN", str(made)))], rows.facets()))
    assert ROWS == rows.count(rows_asked([], rows.facets()))
    assert before == digests(made)
    rows.close()


def test_a_predicate_that_never_ends_is_ended(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crun_batch.page.opened.QUERY_SECONDS", 0.5)
    rows = RunRows(made)
    forever = "(select count(*) from range(10000000000) a, range(1000000) b) = review_id"
    began = time.monotonic()
    with pytest.raises(crun_batch.InputError, match="took longer"):
        rows.count(rows_asked([("where", forever)], rows.facets()))
    assert time.monotonic() - began < 30
    assert ROWS == rows.count(rows_asked([], rows.facets()))
    rows.close()


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (("column", "outptu"), "did you mean 'output'"),
        (("sort", "-nowhere"), "no column 'nowhere'"),
        (("in", "x"), "no column 'x'"),
        (("score", "right"), "must be such as right<0.5"),
        (("score", "wrong<1"), "no score 'wrong'; there are right"),
        (("score", "right<1e999"), "no number"),
        (("page", "0"), "whole number"),
        (("page", "1e9"), "whole number"),
        (("rows", "100000"), "from 1 to 500"),
        (("q", "["), None),
    ],
)
def test_what_means_nothing_is_said_in_words(made: Path, parameter: tuple[str, str], words: str | None) -> None:
    rows = RunRows(made)
    asked = [parameter, *([("regex", "1")] if words is None else [])]
    with pytest.raises(crun_batch.InputError, match=words or "could not be chosen"):
        rows.page(rows_asked(asked, rows.facets()))
    rows.close()


def test_a_value_arrives_as_it_is() -> None:
    """Whole numbers beyond what a browser counts exactly, amounts, moments, halves of characters, no number."""
    assert [2**53, str(2**53 + 1), "nan", "inf", "?", True, None] == told(
        [2**53, 2**53 + 1, float("nan"), float("inf"), "\ud800", True, None]
    )
    assert b'{"a":["\xe5\xa5\xbd"]}' == as_json({"a": ("好",)})


# One row ------------------------------------------------------------------------------------------


def test_a_row_tells_prompt_picture_attempts_and_reason(asker: Asker) -> None:
    """Of both variants, the prompt checked by its hash, the picture as it was sent, the judge's reason."""
    row = asker.get("row", id="r1")
    assert None is row["table"] and {PLAIN, OTHER} == {unit["axis_model"] for unit in row["units"]}
    for unit in row["units"]:
        answer, verdict = unit["attempts"]
        [message] = answer["messages"]
        assert f"Row 1. {HOSTILE}" == message["text"]
        assert [f"data:image/png;base64,{PNG}"] == message["pictures"]
        assert f"because {HOSTILE}" == verdict["reason"]
        assert HOSTILE in json.loads(answer["reply"])["choices"][0]["message"]["content"]
        assert "model" in json.loads(answer["request"])


def test_a_row_whose_table_changed_says_so(tmp_path: Path) -> None:
    path = make_hostile_run(tmp_path, 2)
    table = tmp_path / "rows.jsonl"
    table.write_text(table.read_text().replace("Row 1.", "Row one."))
    with crun_batch.view(path) as page:
        shown = [
            {
                attempt["not_shown"]
                for unit in Asker(page).get("row", id=row)["units"]
                for attempt in unit["attempts"]
            }
            for row in ("r0", "r1")
        ]
    assert [{None}, {"the table has changed since"}] == shown


def test_only_pictures_become_pictures() -> None:
    """No other kind, no address, no text that only looks like one."""
    urls = [f"data:{kind};base64,{PNG}" for kind in PICTURE_KINDS]
    others = ["data:image/svg+xml;base64,PHN2Zz4=", "data:text/html;base64,PHA+", "https://example.org/a.png",
              f"data:image/png;base64,{PNG}\" onerror=\"x", f"data:image/png;charset=x;base64,{PNG}",
              "javascript:x"]  # fmt: skip
    content = [{"type": "image_url", "image_url": {"url": url}} for url in (*urls, *others)]
    anthropic = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    assert [[*urls, urls[0]]] == pictures({"messages": [{"role": "user", "content": [*content, anthropic]}]})


# A running job ------------------------------------------------------------------------------------


PRICE = {"input_per_mtok": 1, "output_per_mtok": 1, "minimum_per_request": 0}


def test_a_running_job_is_seen_as_it_goes(tmp_path: Path) -> None:
    """Rows, their count, status with limit and what is held: while it runs, and at its end."""
    opened = threading.Event()

    def said(asked: Any) -> tuple[int, str]:
        if "Row 1" in json.dumps(asked["messages"]):
            opened.wait(60)
        return 200, "yes"

    pl.DataFrame({"id": range(40), "text": [f"Row {n}" for n in range(40)]}).write_ndjson(tmp_path / "rows.jsonl")
    with gateway(said) as base_url:
        tree = {
            "input": {"table": "rows.jsonl", "id": "id"},
            "endpoint": {"base_url": base_url, "auth": "none"},
            "model": "m",
            "prompt": {"user": "{{ text }}"},
            "params": {"max_output_tokens": 10},
            "prices": {"models": {"m": {"currency": "usd", **PRICE}}},
            "output": {"dir": str(tmp_path / "run")},
        }  # fmt: skip
        (tmp_path / "job.json").write_text(json.dumps(tree))
        work = threading.Thread(
            target=crun_batch.run, args=(load_job(tmp_path / "job.json"),), kwargs={"handle_signals": False}
        )
        work.start()
        try:
            waiting = 11  # Row 1 and Row 10 to 19
            status = until(lambda: asked_status(tmp_path / "run"), lambda one: one["rows"]["ok"] == 40 - waiting)
            assert (True, waiting, "running") == (status["is_running"], status["in_flight"], status["status"])
            rows = RunRows(tmp_path / "run")
            assert 40 - waiting == rows.count(rows_asked([], rows.facets()))
            status = until(
                lambda: asked_status(tmp_path / "run"), lambda one: float((one["pace"] or {}).get("held_usd") or 0)
            )
            assert status["pace"]["limit"] >= 1 and float(status["pace"]["held_usd"]) > 0
            assert float(status["projected_usd"]) > float(status["cost_usd"]) > 0
        finally:
            opened.set()
            work.join(60)
        assert 40 == until(lambda: rows.count(rows_asked([], rows.facets())), lambda count: count == 40)
        rows.close()
    ended = asked_status(tmp_path / "run")
    assert ("finished", False, None) == (ended["status"], ended["is_running"], ended.get("pace"))


def asked_status(path: Path) -> dict[str, Any]:
    return LiveStatus(path).read()


def until(ask: Any, holds: Any) -> Any:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            found = ask()
        except crun_batch.InputError:  # not begun yet
            found = None
        if found is not None and holds(found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"never came: {found}")


def test_failures_are_told_with_the_gateways_words(asker: Asker) -> None:
    found = asker.get("failures")
    assert [4] == [one["count"] for one in found["rows"]]
    assert all(f"refused: {HOSTILE}"[:60] in one["message"] for one in (*found["rows"], *found["requests"]))
    assert {400} == {one["http_status"] for one in found["requests"]}


def test_failures_with_many_different_words_are_all_counted(tmp_path: Path) -> None:
    """Gateways put a request's number into their words: few of them are listed, none is left out of the sum."""
    make_run(tmp_path / "run", 6_000)
    rows = RunRows(tmp_path / "run")
    found = rows.failures()
    rows.close()
    failed = results_frame(tmp_path / "run").filter(pl.col("status") != "ok").select(pl.len()).collect().item()
    unanswered = attempts_frame(tmp_path / "run").filter(pl.col("outcome") != "done").select(pl.len())
    assert (failed, unanswered.collect().item()) == (found["rows_count"], found["requests_count"])
    assert sum(one["count"] for one in found["rows"]) < failed


def test_a_projection_is_the_mean_of_what_is_done() -> None:
    """Of the finished units, for the open ones; unknown where nothing is known; exact, rounded down."""
    assert [3 * PICO, None, None, 1, 3] == [
        projected_pico(PICO, 10, 20),
        projected_pico(None, 10, 20),
        projected_pico(PICO, 0, 20),
        projected_pico(1, 1, 0),
        projected_pico(2, 3, 2),
    ]


def test_the_page_counts_as_the_terminal_does(hostile: Path, asker: Asker) -> None:
    """Two variants of each row are two units: what is sent and finished is called so; rows are the table's."""
    status, facts = asker.get("status"), asker.get("facts")
    summary = crun_batch.status(hostile)
    assert ("unit", "unit", 2) == (status["noun"], facts["noun"], status["units_per_row"])
    assert summary["rows"]["total"] == status["rows_done"] == status["units_done"] // 2
    assert summary["units"] == status["units"]
    assert status["units_done"] == asker.get("count")["rows"]


def test_a_status_is_read_a_tenth_of_the_time_at_most(hostile: Path) -> None:
    """However often it is asked for."""
    now = [0.0]
    live = LiveStatus(hostile, lambda: now[0])
    first = live.read()
    assert first is live.read()
    now[0] = 0.99
    assert first is live.read()
    now[0] = 1.01
    assert first is not live.read()


PATTERNS = st.text(st.sampled_from("abc1.()[]{}*+?\\^$|,-: dwQE"), max_size=14)


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(PATTERNS, st.lists(st.text(st.sampled_from("abc1.()[]{}*+?\\^$|,-: d"), max_size=16), max_size=6))
@example("(abc)?x", ["x"])
@example("abcd?", ["abc"])
@example("abcd{0}e", ["abce"])
@example("abc|x", ["x"])
@example("[^]abc]x", ["ax"])
def test_what_is_certain_of_an_expression_stands_in_all_it_matches(pattern: str, texts: list[str]) -> None:
    """By RE2 itself, as Arrow has it: a row that is left out of the search cannot match."""
    certain = certain_text(pattern)
    texts = [*texts, pattern]
    try:
        matches = pc.match_substring_regex(pa.array(texts), pattern).to_pylist()
    except pa.ArrowInvalid:
        return
    assert certain is None or all(certain in text for text, found in zip(texts, matches, strict=True) if found)


def test_a_plain_beginning_is_certain() -> None:
    """What people write most: a text with some places left open."""
    asked = {
        "Review 1660.7": "Review 1660",
        r"a\.b+c*dd": "a.b",
        "(x|y) late": " late",
        "late|soon": None,
        "late( |$)": "late",
        "a.b": None,
    }
    assert asked == {pattern: certain_text(pattern) for pattern in asked}
