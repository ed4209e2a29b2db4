"""The summary as it is told to others: as seen from its place, and whether its end was told to anybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crun_batch.state.commands import as_seen_from
from crun_batch.state.summary import with_units
from crun_batch.store.directory import RunDirectory, read_json

MOST_BYTES = 1 << 16


def told_summary(path: Path, run: RunDirectory) -> dict[str, Any]:
    """summary.json, with `on_end`. Raises RunDamaged."""
    return {**with_units(as_seen_from(path, read_json(run.summary))), "on_end": _told_of_end(run)}


def _told_of_end(run: RunDirectory) -> dict[str, Any] | None:
    """`told_at`, `is_told`, and in `failed` who was not told and why; None: nobody was to be told, or not yet."""
    try:
        with run.on_end.open("rb") as file:
            document = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("failed"), dict) else None
