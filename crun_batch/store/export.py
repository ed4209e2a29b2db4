"""A run's results in the formats of other tools: CSV, JSONL, Parquet, a page, OpenAI's batch output.

Streams; memory does not grow with rows. Amounts are written as exact decimal text, moments as ISO 8601 in UTC,
nested values in CSV as JSON text. Reads only.
"""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
import pyarrow.parquet as pq

from crun_batch.store.cells import guarded, without_controls
from crun_batch.store.chosen import ALL, Chosen, chosen_batches, chosen_schema, chosen_view
from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import quoted
from crun_batch.store.views import run_schema

Format = Literal["csv", "jsonl", "parquet", "html", "openai-batch"]
_ROWS_AT_ONCE = 1024
_FRAME_LINES = 3
_PAGE_HEAD = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    "<style>body{font:14px sans-serif}table{border-collapse:collapse;width:max-content}th,td{"
    "border:1px solid #ccc;padding:4px 6px;text-align:start;vertical-align:top;white-space:pre-wrap;"
    "max-width:min(60ch,85vw);overflow-wrap:anywhere;unicode-bidi:plaintext}th{position:sticky;top:0;background:#eee}"
    "td:first-child{position:sticky;left:0;background:#fff;max-width:min(60ch,40vw)}</style>"
)
"""As wide as its columns need: squeezed into a window, a figure would be broken within its digits."""


def export(
    path: Path, format: Format, stream: BinaryIO, chosen: Chosen = ALL, *, guard_formulas: bool = True
) -> int:
    """Write the chosen results, the live ones included, to `stream` in UTF-8; returns how many rows.

    `guard_formulas`: in CSV, a text cell that a spreadsheet would run as a formula gets a leading apostrophe, and
    control characters other than tabs and ends of lines are written out as escapes. Parquet needs a stream that
    knows its position. Raises InputError for a predicate or a column that is wrong.
    """
    if format == "csv":
        return _csv(path, stream, chosen, guard_formulas=guard_formulas)
    if format == "parquet":
        return _parquet(path, stream, chosen)
    count = 0
    for line in _PAGES[format](path, chosen):
        stream.write(line + b"\n")
        count += 1
    return count - (_FRAME_LINES if format == "html" else 0)


def _csv(path: Path, stream: BinaryIO, chosen: Chosen, *, guard_formulas: bool) -> int:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    names = chosen_schema(path, chosen).names
    writer.writerow([_csv_cell(name, guard_formulas=guard_formulas) for name in names])
    count = 0
    for row in _rows(path, chosen):
        writer.writerow([_csv_cell(value, guard_formulas=guard_formulas) for value in row.values()])
        count += 1
    text.detach()
    return count


def _parquet(path: Path, stream: BinaryIO, chosen: Chosen) -> int:
    count = 0
    with pq.ParquetWriter(stream, chosen_schema(path, chosen), compression="zstd") as writer:
        for batch in chosen_batches(path, chosen):
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _result_lines(path: Path, chosen: Chosen) -> Iterator[bytes]:
    for row in _rows(path, chosen):
        yield orjson.dumps(_plain(row))


def _page_lines(path: Path, chosen: Chosen) -> Iterator[bytes]:
    """One page that opens offline: a table, every cell a text; _FRAME_LINES lines and one for each row."""
    names = chosen_schema(path, chosen).names
    titles = "".join(f"<th>{_escaped(name)}</th>" for name in names)
    yield f"<!doctype html><meta charset=utf-8><title>{_escaped(path.name)}</title>{_PAGE_HEAD}".encode()
    yield f"<table><thead><tr>{titles}</tr></thead><tbody>".encode()
    for row in _rows(path, chosen):
        cells = "".join(f"<td>{'' if value is None else _escaped(_cell(value))}</td>" for value in row.values())
        yield f"<tr>{cells}</tr>".replace("\n", "&#10;").encode("utf-8", "replace")
    yield b"</tbody></table>"


def _escaped(value: Any) -> str:
    return html.escape(without_controls(str(value)))


def _rows(path: Path, chosen: Chosen) -> Iterator[dict[str, Any]]:
    for batch in chosen_batches(path, chosen):
        yield from batch.to_pylist()


def _batch_lines(path: Path, chosen: Chosen) -> Iterator[bytes]:
    """One line per result, with the reply of its last attempt that was to answer; of several rows its part."""
    schema = run_schema(RunDirectory(path))
    keys = ", ".join(map(quoted, schema.unit_columns))
    with chosen_view(path, chosen) as connection:
        [(plain,)] = connection.execute(
            "select count(distinct variant) <= 1 and coalesce(max(repeat), 0) = 0 from results"
        ).fetchall()
        [(packs,)] = connection.execute("select count(pack_place) from attempts").fetchall()
        first = "attempts" if packs else "(from attempts limit 0)"
        reader = connection.sql(
            f"with last as (select {keys}, max(serial) as serial from attempts "
            f"where purpose in ('answer', 'alone', 'repair') group by {keys}) "
            f"select {quoted(schema.id_name)} as id, r.variant, r.repeat, r.error_kind, r.error_message, "
            f"a.serial, a.http_status, a.request_id, coalesce(first.reply_body, a.reply_body) as reply_body, "
            "a.pack_place, r.output_text, a.input_tokens, a.output_tokens from chosen r "
            f"left join last using ({keys}) left join attempts a on a.serial = last.serial "
            f"left join {first} first on first.serial = a.serial - a.pack_place + 1"
        ).to_arrow_reader(_ROWS_AT_ONCE)
        name = _custom_id if plain else _unit_id
        for batch in reader:
            for row in batch.to_pylist():
                yield _batch_line(row, name(row))


def _custom_id(row: Mapping[str, Any]) -> str:
    return str(row["id"])


def _unit_id(row: Mapping[str, Any]) -> str:
    return f"{row['id']}/{row['variant']}/{row['repeat']}"


def _batch_line(row: Mapping[str, Any], custom_id: str) -> bytes:
    response = None
    if row["http_status"] is not None:
        response = {
            "status_code": row["http_status"],
            "request_id": row["request_id"] or "",
            "body": _own_part(row) if row["pack_place"] is not None else _embedded(row["reply_body"]),
        }
    error = None if response else {"code": row["error_kind"] or "error", "message": row["error_message"] or ""}
    return orjson.dumps(
        {"id": f"batch_req_{row['serial'] or 0}", "custom_id": custom_id, "response": response, "error": error}
    )


def _own_part(row: Mapping[str, Any]) -> Any:
    """Of a reply to several rows: as if it had answered this one alone, with its part of the tokens."""
    text = row["output_text"]
    try:
        body = orjson.loads(row["reply_body"] or "")
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict) or text is None:
        return _embedded(row["reply_body"])
    read, written = row["input_tokens"] or 0, row["output_tokens"] or 0
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    if "choices" in body:
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return body | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    if "output" in body:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        message = {"type": "message", "role": "assistant", "status": "completed", "content": content}
        return body | {"output": [message], "usage": usage}
    return body | {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "usage": usage}


def _embedded(body: str | None) -> Any:
    """The reply's JSON as it came; what is no JSON, as text."""
    if body is None:
        return None
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    return orjson.Fragment(body.replace("\n", " ").replace("\r", " "))


def _csv_cell(value: Any, *, guard_formulas: bool) -> Any:
    """Amounts and moments, which are ours, are no texts of others: -0.1 stays a number."""
    cell = _cell(value)
    return guarded(cell) if guard_formulas and isinstance(value, str | dict | list) else cell


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return orjson.dumps(_plain(value)).decode()
    return value if isinstance(value, str | int | float | bool) else _plain(value)


def _plain(value: Any) -> Any:
    """The value as JSON takes it."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return next(text(value) for kind, text in _TEXTS if isinstance(value, kind))


_TEXTS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (Decimal, lambda value: format(value, "f")),
    (datetime, lambda value: value.isoformat()),
    (date, lambda value: value.isoformat()),
    (time, lambda value: value.isoformat()),
    (timedelta, str),
    (bytes, lambda value: base64.b64encode(value).decode()),
)


_PAGES: Mapping[Format, Callable[[Path, Chosen], Iterator[bytes]]] = {
    "jsonl": _result_lines,
    "html": _page_lines,
    "openai-batch": _batch_lines,
}
"""Formats that are made line by line."""
