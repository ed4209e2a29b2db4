"""One row of a run from its prompt to its scores, as plain data: what `show` shows. Reads only, sends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from crun_batch.errors import InputError
from crun_batch.gateway.protocols.protocol import decode
from crun_batch.records import Reply
from crun_batch.reporting.asked_again import CHANGED, GONE, AskedAgain, Attempted, open_again, said_of
from crun_batch.reporting.replies import BODIES, Endpoints, endpoints_of, raw_reply, recorded_reply
from crun_batch.reporting.spoken import spoken
from crun_batch.scoring.extract import json_value
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.store.unit_rows import RecordedRow, recorded_row, unknown_id
from crun_batch.workload.recorded_job import recorded_job

_OF_UNIT = ("variant", "repeat")


class RowSource(Struct, frozen=True):
    """What the row is read with: where its requests went, and those requests, or why they cannot be made again."""

    endpoints: Endpoints
    again: AskedAgain | str
    raw: bool = False


def show_row(
    path: Path, wanted: int | str, *, table: object | None, allow_paths: Sequence[str | Path], raw: bool
) -> dict[str, Any]:
    """The document of `show`. Raises InputError where there is no run or no such row, RunDamaged."""
    return shown_row(path, recorded_row(path, wanted), table=table, allow_paths=allow_paths, raw=raw)


def shown_row(
    path: Path, recorded: RecordedRow, *, table: object | None, allow_paths: Sequence[str | Path], raw: bool
) -> dict[str, Any]:
    """The same of what is recorded of the row. Raises InputError where that is nothing."""
    document = read_json(RunDirectory(path).job)
    with ExitStack() as stack:
        source = _source(document, table, recorded.row_id, stack, allow_paths)
        source = structs.replace(source, raw=raw)
        is_open = isinstance(source.again, AskedAgain) and source.again.row is not None
        if not recorded.results and not recorded.attempts and not is_open:
            raise unknown_id(path, recorded.row_id, recorded.near)
        results = {(one["variant"], one["repeat"]): one for one in recorded.results}
        attempts: dict[tuple[str, int], list[dict[str, Any]]] = {key: [] for key in results}
        for one in recorded.attempts:
            attempts.setdefault((one["variant"], one["repeat"]), []).append(one)
        units = [
            _unit(source, {"variant": key[0], "repeat": key[1]}, results.get(key), tried)
            for key, tried in sorted(attempts.items())
        ]
    return {
        "run": str(path),
        "name": document["job"]["name"],
        "id": recorded.row_id,
        "table": source.again if isinstance(source.again, str) else None if is_open else GONE,
        "units": units,
    }


def _source(
    document: Mapping[str, Any],
    table: object | None,
    row_id: int | str,
    stack: ExitStack,
    allow_paths: Sequence[str | Path],
) -> RowSource:
    """What was recorded is shown also where this version takes the job no more: without what follows from it."""
    try:
        job = recorded_job(document, allow_paths)
        endpoints = endpoints_of(job)
    except InputError as error:
        return RowSource({}, f"the job cannot be read any more: {error}")
    return RowSource(endpoints, open_again(job, table, row_id, stack))


def _unit(
    source: RowSource,
    unit: dict[str, Any],
    result: Mapping[str, Any] | None,
    attempts: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A unit with its attempts; `result` is None while it is open."""
    replies = [recorded_reply(source.endpoints, one) for one in attempts]
    bodies = _bodies(source, unit["variant"], result, attempts, replies)
    told = {name: value for name, value in (result or {}).items() if name not in _OF_UNIT}
    return {
        **unit,
        "status": "open",
        **told,
        "scores": {name.removeprefix("score_"): told[name] for name in told if name.startswith("score_")},
        "prompt": _shared_prompt(source, unit, result) if result is not None and not attempts else None,
        "attempts": [
            _attempt(source, one, reply, body) for one, reply, body in zip(attempts, replies, bodies, strict=True)
        ],
    }


def _bodies(
    source: RowSource,
    variant: str,
    result: Mapping[str, Any] | None,
    attempts: Sequence[Mapping[str, Any]],
    replies: Sequence[Reply | None],
) -> list[bytes | None]:
    """Of each attempt the request that was sent, None where it cannot be told any more."""
    again = source.again
    if isinstance(again, str):
        return [None] * len(attempts)
    answers = [
        Attempted(one["turn"], one["purpose"], one["request_hash"], reply)
        for one, reply in zip(attempts, replies, strict=True)
        if one["judge"] is None
    ]
    of_answers = iter(again.bodies(variant, answers))
    return [next(of_answers) if one["judge"] is None else _question(again, one, result) for one in attempts]


def _question(again: AskedAgain, attempt: Mapping[str, Any], result: Mapping[str, Any] | None) -> bytes | None:
    if result is None:
        return None
    text = result["output_text"]
    output = json_value(text) if text is not None and result.get("output") is not None else None
    return again.question(attempt["judge"], said_of(result, output), attempt["request_hash"])


def _shared_prompt(source: RowSource, unit: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a unit that was given the answer to an identical request; None where it never had a request."""
    if result["request_hash"] is None:
        return None
    again = source.again
    body = None if isinstance(again, str) else again.unit_body(unit["variant"], result["request_hash"])
    return _prompt(source, body)


def _attempt(
    source: RowSource, attempt: Mapping[str, Any], reply: Reply | None, body: bytes | None
) -> dict[str, Any]:
    told = {name: value for name, value in attempt.items() if name not in (*_OF_UNIT, *BODIES)}
    answer = None if reply is None else reply.text
    reason = None
    if attempt["judge"] is not None and answer is not None:
        verdict = json_value(answer)
        reason = str(verdict["reason"]) if isinstance(verdict, Mapping) and "reason" in verdict else answer
    raw = {"reply": raw_reply(attempt).decode(errors="replace")} if source.raw else {}
    asked = {**_prompt(source, body), **_together(source, attempt)}
    return {**told, **asked, "answer": answer, "reason": reason, **raw}


def _together(source: RowSource, attempt: Mapping[str, Any]) -> dict[str, Any]:
    """Of a row that was asked with others: its own messages are told, and the request that held all is not."""
    rows = attempt.get("pack_rows")
    if rows is None:
        return {}
    why = f"it asked {rows:,} rows together, this one as number {attempt['pack_place']:,}"
    return {"not_shown": why, **({"request": None} if source.raw else {})}


def _prompt(source: RowSource, body: bytes | None) -> dict[str, Any]:
    """`messages` as sent, or `not_shown`: why they are not; with `raw` the body itself."""
    if body is None:
        why = source.again if isinstance(source.again, str) else CHANGED if source.again.row is not None else GONE
        return {"messages": None, "not_shown": why, **({"request": None} if source.raw else {})}
    fields = decode(body)
    told = {"messages": spoken(fields), "not_shown": None}
    return {**told, **({"request": body.decode(errors="replace")} if source.raw else {})}
