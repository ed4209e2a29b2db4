"""What the page's reader tells a running session: the same questions, and the same answers, as from a terminal.

Only on loopback (see `served`): whoever may look from another machine does not raise a cap there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.state.telling import tell


class Told(Struct, frozen=True, forbid_unknown_fields=True):
    """One question to a session."""

    do: Literal["set", "pause", "resume", "stop"]
    values: dict[str, int | str | None] | None = None
    """Of `set`: key -> what it is from now on; None: its default."""


def tell_session(path: Path, body: bytes) -> dict[str, Any]:
    """What the session answers. Raises InputError (nothing has changed), NotRunning, RunDirectoryError."""
    try:
        told = msgspec.json.decode(body, type=Told)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"this tells a session nothing: {error}") from error
    if (told.do == "set") != (told.values is not None):
        raise InputError(f"`values` belong to `set`, and to nothing else; this is {told.do!r}")
    return tell(path, {key: value for key, value in msgspec.to_builtins(told).items() if value is not None})
