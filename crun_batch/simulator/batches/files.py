"""Uploaded files and those that batches leave: kept in memory, each under the key that brought it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from crun_batch.simulator.asks import Invalid


class StoredFile(Struct, frozen=True):
    """A file. `content` is made when it is asked for: an output's faults may be turned on later."""

    id: str
    key_name: str
    name: str
    purpose: str
    created_at: float
    size_bytes: int
    content: Callable[[], bytes]

    def to_object(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": int(self.created_at),
            "expires_at": None,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class Upload(Struct, frozen=True):
    """What a form brings: the file, its name, what it is for."""

    name: str
    purpose: str
    content: bytes


def read_upload(content_type: str, body: bytes) -> Upload:
    """The parts of a multipart form. Raises Invalid."""
    kind, _, rest = content_type.partition(";")
    boundary = next(
        (part.partition("=")[2].strip('" ') for part in rest.split(";") if part.strip().startswith("boundary=")),
        "",
    )
    if kind.strip() != "multipart/form-data" or not boundary:
        raise Invalid("Expected a multipart/form-data body.")
    values: dict[str, tuple[str, bytes]] = {}
    for part in body.split(b"--" + boundary.encode())[1:]:
        head, separator, content = part.partition(b"\r\n\r\n")
        if separator:
            name, filename = _names(head.decode("utf-8", "replace"))
            values[name] = (filename, content.removesuffix(b"\r\n"))
    for name in ("purpose", "file"):
        if name not in values:
            raise Invalid(f"Missing required parameter: '{name}'.", name)
    purpose = values["purpose"][1].decode("utf-8", "replace")
    if purpose != "batch":
        raise Invalid(
            f"Invalid value for 'purpose': '{purpose}'; this gateway keeps files for batches.", "purpose"
        )
    filename, content = values["file"]
    return Upload(filename, purpose, content)


def _names(head: str) -> tuple[str, str]:
    """The field's name and its file's, from the head of a part."""
    found = {"name": "", "filename": ""}
    for line in head.splitlines():
        if line.lower().startswith("content-disposition:"):
            for part in line.split(";")[1:]:
                key, _, value = part.strip().partition("=")
                found[key] = value.strip('"')
    return found["name"], found["filename"]
