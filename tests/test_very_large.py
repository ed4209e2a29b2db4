"""Answers of 50 MB, and columns that hold more than one Arrow array of texts can (2 GiB), in little memory."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pyarrow as pa
import pytest

import crun_batch
from crun_batch.load.folders import Folders
from crun_batch.load.table.table import open_table

LONG_BYTES = 50_000_000
TWO_GIB = 2**31


class Long(http.server.BaseHTTPRequestHandler):
    """Answers with 50 MB to the rows that ask for much, with a word to the others."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"]))
        text = "ä" * (LONG_BYTES // 2) if b"much" in asked else "short"
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        body = json.dumps({"choices": [choice], "usage": usage}, ensure_ascii=False).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def base_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Long)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_answers_of_50_mb_are_kept_whole_and_hold_up_no_other(base_url: str, tmp_path: Path) -> None:
    """Recorded, sealed, published and verified as any; the short ones beside them are there."""
    job = crun_batch.Job(
        model="m",
        endpoint={"base_url": base_url, "auth": "none"},
        input={"id": "id"},
        prompt={"user": "{{ text }}"},
        limits={"concurrency": 4},
        budget={"credits": "off"},
        output={"dir": str(tmp_path / "run")},
    )
    table = pl.DataFrame({"id": range(6), "text": ["much", "little"] * 3})
    done = crun_batch.run(job, table=table, handle_signals=False)
    assert (0, 6) == (done.exit_code, done.summary["rows"]["ok"])
    lengths = done.results().select("id", pl.col("output_text").str.len_bytes()).sort("id").collect()
    assert [LONG_BYTES, 5] * 3 == lengths["output_text"].to_list()
    published = pl.scan_parquet(done.directory / "results.parquet").select(pl.col("output_text").str.len_bytes())
    assert 3 * LONG_BYTES + 15 == published.sum().collect().item()
    assert [] == done.verify(data=True)


def repeated(text_bytes: int, chunks: int) -> pa.ChunkedArray:
    """A column of so many texts, one to a chunk, which are all in one place of the memory."""
    one = pa.array(["x" * text_bytes])
    return pa.chunked_array([one] * chunks)


def test_a_table_may_have_a_column_of_more_than_2_gib() -> None:
    """Read from its first row to its last, counted and told apart by ids, without one array of all its texts."""
    chunks, text_bytes = 300, 8 * 2**20
    column = repeated(text_bytes, chunks)
    assert sum(len(chunk.buffers()[2]) for chunk in column.chunks) > TWO_GIB
    frame = pa.table({"id": pa.array(range(chunks)), "text": column})
    spec = SimpleNamespace(
        table=None, query=None, where=None, id="id", limit=None, sample=None, csv=None, sheet=None
    )
    table = open_table(spec, folders=Folders(Path()), frame=frame)
    last = pa.array([number >= chunks - 2 for number in range(chunks)])
    found = [row for rows in table.rows(["text"], wanted=last) for row in rows]
    assert [(chunks - 2, text_bytes), (chunks - 1, text_bytes)] == [
        (row.row_id, len(str(row.values["text"]))) for row in found
    ]
    assert chunks == table.count()
