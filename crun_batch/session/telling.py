"""Tells somebody that a run has ended: a process of its own, so that the run's end waits for nothing.

`python -m crun_batch.session.telling` reads one JSON document from standard input: `command` (words, or null),
`webhook` (an address, or null), `hidden` (names of variables that the command must not see), `document` (what is
told), `record` (the file that says how it went). Knows the standard library only, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

COMMAND_SECONDS = 600.0
WEBHOOK_SECONDS = 15.0
PAUSES_SECONDS = (0.0, 2.0, 10.0)
"""Before each attempt at a webhook."""
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_SHOWN_CHARACTERS = 300


def main() -> int:
    """Tell, and record how it went; 0 where everybody was told."""
    asked = json.load(sys.stdin)
    text = json.dumps(asked["document"]).encode()
    failed = {}
    if asked["command"] is not None and (why := _run(asked["command"], asked["hidden"], text)) is not None:
        failed["command"] = why
    if asked["webhook"] is not None and (why := _post(asked["webhook"], text)) is not None:
        failed["webhook"] = why
    told_at = datetime.now(UTC).isoformat(timespec="seconds")
    _record(Path(asked["record"]), {"told_at": told_at, "is_told": not failed, "failed": failed})
    return 1 if failed else 0


def _run(words: Sequence[str], hidden: Sequence[str], text: bytes) -> str | None:
    """Why the command failed; None: it did not."""
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    try:
        done = subprocess.run(
            words, input=text, capture_output=True, timeout=COMMAND_SECONDS, env=environ, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{words[0]} was still running after {COMMAND_SECONDS:.0f} s and was ended"
    except OSError as error:
        return f"{words[0]} cannot be run: {error.strerror}"
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="backslashreplace").strip()
    return f"{words[0]} ended with exit code {done.returncode}" + (
        f": {said[-_SHOWN_CHARACTERS:]}" if said else ""
    )


def _post(address: str, text: bytes) -> str | None:
    """Why nobody was told at the address, which is a secret and is not shown; None: somebody was."""
    host = urlsplit(address).hostname or "the address"
    if urlsplit(address).scheme != "https":
        return "the address is not https"
    why = ""
    for pause in PAUSES_SECONDS:
        time.sleep(pause)
        try:
            request = urllib.request.Request(address, text, {"Content-Type": "application/json"}, method="POST")
            with urllib.request.build_opener(_NoRedirect()).open(request, timeout=WEBHOOK_SECONDS):
                return None
        except HTTPError as error:
            why = f"HTTP {error.code}"
            if error.code not in _TRANSIENT:
                break
        except (URLError, OSError, ValueError) as error:
            why = str(getattr(error, "reason", None) or type(error).__name__)
    return f"{host} was not told: {why}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected would become a GET that tells nothing."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def _record(path: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all, for its owner alone; a run directory that has gone away is left alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(document, file)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
