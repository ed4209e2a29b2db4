"""Results in other tools' formats: whole, exact, and harmless to open."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pytest
from store_kit import ManualSyncer, answer, open_run, read, start

from crun_batch.store.directory import write_json
from crun_batch.store.events import FinalEvent, FinalPart
from crun_batch.store.export import export
from crun_batch.store.journal import create_journal
from crun_batch.store.schema import RunSchema, schema_document

SCHEMA = RunSchema(id_name="k", id_type=pa.string(), carried=pa.schema([("note", pa.string())]))


@pytest.fixture
def run(tmp_path):
    run = open_run(tmp_path / "run")
    write_json(run, run.job, {"run_schema": schema_document(SCHEMA)})
    yield run
    run.close()


def journal_of(run):
    return create_journal(run, None, syncer=ManualSyncer())


def exported(run, format, **options) -> str:
    stream = io.BytesIO()
    export(run.path, format, stream, **options)
    return stream.getvalue().decode()


@pytest.mark.parametrize("start_of_cell", ["=", "+", "-", "@", "\t", "\r"])
def test_a_formula_in_a_cell_is_text_to_a_spreadsheet(run, start_of_cell):
    """A leading apostrophe, unless it is switched off; everything else is as it was."""
    hostile = start_of_cell + 'cmd|"/c calc"!A0,\n"x"'
    answer(journal_of(run), 1, final=FinalPart("ok", as_read=True, text=hostile, carried={"note": hostile}))
    row = next(csv.DictReader(io.StringIO(exported(run, "csv"), newline="")))
    assert ("'" + hostile, "'" + hostile, "ok") == (row["output_text"], row["note"], row["status"])
    row = next(csv.DictReader(io.StringIO(exported(run, "csv", guard_formulas=False), newline="")))
    assert hostile == row["output_text"]


def test_amounts_and_moments_are_exact(run):
    """Decimal text with 12 places, ISO 8601."""
    answer(journal_of(run), 1, final=FinalPart("ok", as_read=True, outputs=["a", "b"], cost_usd=-5))
    row = json.loads(exported(run, "jsonl"))
    assert ("1", "-0.000000000005", None, ["a", "b"]) == (
        row["k"],
        row["cost_usd"],
        row["cost_credits"],
        row["outputs"],
    )
    assert row["started_at"].startswith("2026-09-21T14:13:21")
    cells = next(csv.DictReader(io.StringIO(exported(run, "csv"))))
    assert ("-0.000000000005", "", '["a","b"]') == (cells["cost_usd"], cells["cost_credits"], cells["outputs"])


def test_the_lines_of_a_batch_are_those_of_openai(run):
    """id, custom_id, response or error; the reply's JSON as it came, pretty-printed or not."""
    journal = journal_of(run)
    answer(journal, 1, body=b'{\n "a": 1.10\r\n}')
    answer(journal, 2, body=b"<html>", http_status=502, final=FinalPart("error", error_kind="server"))
    n = next(journal.serials)
    journal.append_starts([start(n, 3)])
    lost = {"http_status": None, "outcome": "unknown", "error_kind": "timeout", "error_message": "no reply"}
    journal.append_reads([read(n, 3, FinalPart("error", as_read=True), **lost)])
    journal.append_final(FinalEvent("4", 4, "base", FinalPart("error", error_message="template")))
    text = exported(run, "openai-batch")
    lines = sorted((json.loads(line) for line in text.splitlines()), key=lambda line: line["custom_id"])
    assert [
        {
            "id": "batch_req_1",
            "custom_id": "1",
            "response": {"status_code": 200, "request_id": "req-1", "body": {"a": 1.1}},
            "error": None,
        },
        {
            "id": "batch_req_2",
            "custom_id": "2",
            "response": {"status_code": 502, "request_id": "req-2", "body": "<html>"},
            "error": None,
        },
        {
            "id": "batch_req_3",
            "custom_id": "3",
            "response": None,
            "error": {"code": "timeout", "message": "no reply"},
        },
        {
            "id": "batch_req_0",
            "custom_id": "4",
            "response": None,
            "error": {"code": "error", "message": "template"},
        },
    ] == lines
    assert "1.10" in text


def test_units_of_a_sweep_have_names_of_their_own(run):
    """custom_id is unique in the file."""
    journal = journal_of(run)
    answer(journal, 1)
    answer(journal, 1, repeat=1)
    names = sorted(json.loads(line)["custom_id"] for line in exported(run, "openai-batch").splitlines())
    assert ["1/base/0", "1/base/1"] == names


@pytest.mark.parametrize("control", [*map(chr, (0, 7, 8, 27, 127, 0x9B)), "\u202e", "\u2066"])
def test_no_cell_of_a_csv_steers_the_terminal_that_shows_it(run, control):
    """In every column and in nested values; written out, not dropped. With the guard off all is as it was."""
    hostile = f"a{control}[2Jb"
    final = FinalPart("ok", as_read=True, text=hostile, carried={"note": hostile}, error_message=hostile)
    answer(journal_of(run), 1, final=final, model=hostile)
    assert control not in exported(run, "csv")
    row = next(csv.DictReader(io.StringIO(exported(run, "csv"), newline="")))
    assert row["output_text"] == row["note"] == row["model"] != hostile
    assert control in exported(run, "csv", guard_formulas=False)
