"""Results beside what was asked, for other tools: conversations for fine-tuning, requests for a batch file.

Rows are rendered again beside the table, in its order, and a result counts only where its recorded hash is that of
the request that its row makes: a prompt that was not sent is never put beside an answer. Streams; memory does not
grow with rows. Reads only, sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
from msgspec import Struct

from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.protocols.protocol import decode
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.records import Row
from crun_batch.scoring.answers import in_table_order, with_rows
from crun_batch.store.chosen import AskedFormat, Chosen, Exported, chosen_batches
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.workload.loading import load_workload
from crun_batch.workload.recorded_job import check_has_table, recorded_job
from crun_batch.workload.request import Request, Variant
from crun_batch.workload.workload import Workload

_COLUMNS = ("variant", "repeat", "output_text", "outputs", "tool_calls", "request_hash")


class Result(Struct, frozen=True):
    """A result beside its row."""

    position: int
    variant: str
    repeat: int
    output_text: str | None
    outputs: list[str] | None
    tool_calls: str | None
    request_hash: str | None


def export_asked(
    path: Path,
    format: AskedFormat,
    stream: BinaryIO,
    chosen: Chosen,
    *,
    table: object | None = None,
    allow_paths: Sequence[str | Path] = (),
) -> Exported:
    """Write the chosen results with what was asked, a line of JSON for each. Raises InputError, RunDamaged."""
    job = recorded_job(read_json(RunDirectory(path).job), allow_paths)
    check_has_table(job, table)
    written = found = 0
    with ExitStack() as stack:
        workload = load_workload(job, table)
        stack.callback(workload.close)
        lines = _results(path, workload, chosen)
        found_results = _Counted(lines)
        reader = pa.RecordBatchReader.from_batches(found_results.schema, found_results.batches())
        results = stack.enter_context(in_table_order(workload.table, reader, "variant, repeat"))
        rows = workload.table.unselected().rows(workload.columns)
        writer = _Writer(workload, format)
        for result, row in with_rows(rows, (Result(*line) for line in results)):
            line = writer.line(result, row)
            if line is not None:
                stream.write(line + b"\n")
                written += 1
        found = found_results.rows
    return Exported(written, found - written)


def _results(path: Path, workload: Workload, chosen: Chosen) -> Iterator[pa.RecordBatch]:
    id_name = workload.table.id_name
    wanted = Chosen(chosen.where, chosen.statuses, (id_name, *_COLUMNS))
    for batch in chosen_batches(path, wanted):
        yield batch.rename_columns(["id", *_COLUMNS])


class _Counted:
    """Batches that are counted as they pass."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self.rows = 0
        self._batches = batches
        self._first = next(batches, None)
        self.schema = self._first.schema if self._first is not None else _NOTHING

    def batches(self) -> Iterator[pa.RecordBatch]:
        if self._first is None:
            return
        self.rows += self._first.num_rows
        yield self._first
        for batch in self._batches:
            self.rows += batch.num_rows
            yield batch


_NOTHING = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("repeat", pa.int32()),
        pa.field("output_text", pa.string()),
        pa.field("outputs", pa.list_(pa.string())),
        pa.field("tool_calls", pa.string()),
        pa.field("request_hash", pa.string()),
    ]
)


class _Writer:
    """Makes the line of one result; a row's request is made once for all its repeats."""

    def __init__(self, workload: Workload, format: AskedFormat) -> None:
        self._variants = {variant.name: variant for variant in workload.variants}
        self._is_plain = len(self._variants) == 1 and workload.repeats == 1
        self._line = _LINES[format]

    def line(self, result: Result, row: Row) -> bytes | None:
        """None where the row would be asked something else today, or where there is nothing to tell."""
        variant = self._variants.get(result.variant)
        if variant is None or result.request_hash is None:
            return None
        try:
            request = variant.request(row)
        except RowRejected:
            return None
        if request.unit_hash != result.request_hash:
            return None
        name = str(row.row_id) if self._is_plain else f"{row.row_id}/{result.variant}/{result.repeat}"
        document = self._line(variant, row, request, result, name)
        return None if document is None else orjson.dumps(document)


def _conversation(
    variant: Variant, row: Row, request: Request, result: Result, name: str
) -> dict[str, Any] | None:
    """The messages in the form of chat, the answer to each turn after it; None without an answer."""
    answers = result.outputs if result.outputs is not None else [result.output_text]
    last: dict[str, Any] = {"role": "assistant", "content": answers[-1] if answers else None}
    if result.tool_calls is not None:
        last["tool_calls"] = orjson.loads(result.tool_calls)
    if not answers or (last["content"] is None and "tool_calls" not in last):
        return None
    prompt = variant.renderer.render(row)
    if prompt.body is not None:
        return {"messages": [*_given(decode(request.body)), last]}
    turns: list[Mapping[str, Any]] = list(prompt.messages)
    for answer, word in zip(answers, prompt.later_turns, strict=False):
        turns += [{"role": "assistant", "content": answer}, word]
    body = PROTOCOLS["chat"].body("", turns, {}, None, False, None)
    return {"messages": [*decode(body)["messages"], last]}


def _given(fields: Mapping[str, Any]) -> list[Any]:
    """The messages of a body that came from the table, whatever its protocol."""
    said = [{"role": "system", "content": fields[key]} for key in ("instructions", "system") if fields.get(key)]
    given = fields.get("messages", fields.get("input", fields.get("prompt")))
    return [*said, *(given if isinstance(given, list) else [{"role": "user", "content": given}])]


def _request(variant: Variant, row: Row, request: Request, result: Result, name: str) -> dict[str, Any]:
    """A line of an OpenAI Batch input file; of a conversation its first request."""
    url = f"/v1{variant.terms.path}"
    return {"custom_id": name, "method": "POST", "url": url, "body": orjson.Fragment(request.body)}


_LINES: Mapping[AskedFormat, Callable[[Variant, Row, Request, Result, str], dict[str, Any] | None]] = {
    "chat-jsonl": _conversation,
    "openai-batch-requests": _request,
}
