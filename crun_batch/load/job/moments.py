"""Moments in a job file: a date, or a date and a time; without a zone they are UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Annotated, Any

from pydantic import BeforeValidator


def _moment(value: Any) -> datetime:
    """Raises ValueError for what is no moment."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is no moment: write 2026-11-01 or 2026-11-01T12:00:00Z") from None
    if not isinstance(value, datetime):
        raise ValueError("it takes a moment, such as 2026-11-01 or 2026-11-01T12:00:00Z")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Moment = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=str)]
