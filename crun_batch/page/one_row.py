"""One row for the page: what `show` tells of it, with its pictures, and of very long texts the beginning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crun_batch.gateway.protocols.protocol import decode
from crun_batch.reporting.one_row import shown_row
from crun_batch.reporting.spoken import pictures
from crun_batch.store.unit_rows import RecordedRow

RAW_CHARACTERS = 200_000
"""Of a longer request or reply the page shows so much; `show --raw` has all of it."""


def row_document(
    path: Path, recorded: RecordedRow, *, table: object | None, allow_paths: Sequence[str | Path]
) -> dict[str, Any]:
    """The document of `show`; each message has `pictures`, data URLs. Raises InputError (no such row)."""
    shown = shown_row(path, recorded, table=table, allow_paths=allow_paths, raw=True)
    return {**shown, "units": [_unit(unit) for unit in shown["units"]]}


def _unit(unit: Mapping[str, Any]) -> dict[str, Any]:
    prompt = unit["prompt"]
    return {
        **unit,
        "prompt": None if prompt is None else _with_pictures(prompt),
        "attempts": [_with_pictures(attempt) for attempt in unit["attempts"]],
    }


def _with_pictures(asked: Mapping[str, Any]) -> dict[str, Any]:
    messages, request = asked["messages"], asked.get("request")
    if messages is not None and request is not None:
        found = pictures(decode(request.encode()))
        messages = [{**one, "pictures": shown} for one, shown in zip(messages, found, strict=True)]
    cut = {name: _cut(asked[name]) for name in ("request", "reply") if asked.get(name) is not None}
    return {**asked, "messages": messages, **cut}


def _cut(text: str) -> str:
    if len(text) <= RAW_CHARACTERS:
        return text
    return f"{text[:RAW_CHARACTERS]}\n… {len(text) - RAW_CHARACTERS:,} more characters"
