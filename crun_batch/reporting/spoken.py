"""A request's body as a conversation: who says what, and which images and files are named. Pure.

Reads the bodies of all four protocols, those that come from a table included: whatever is a text is shown,
whatever has an address is named by it, and data that stands in the body by its kind and size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_ADDRESSES = ("url", "image_url", "file_url", "file_id", "uri")
_DATA = ("data", "file_data", "image_data")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+=*", re.ASCII)
PICTURE_KINDS = ("image/png", "image/jpeg", "image/gif", "image/webp")


def spoken(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages in their order: `role`, `text`, `attachments` (an address each, or kind and size)."""
    return [_message(role, content) for role, content in _said(fields)]


def pictures(fields: Mapping[str, Any]) -> list[list[str]]:
    """Of each of the same messages the pictures whose data stands in the body, as data URLs.

    Only of kinds that a browser draws and that hold no script.
    """
    return [
        [url for holder, name, value in _addressed(content) if (url := _picture(holder, name, value)) is not None]
        for _, content in _said(fields)
    ]


def _said(fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Who says what, as it stands in the body."""
    said = [("system", fields[key]) for key in ("instructions", "system") if fields.get(key)]
    given = fields.get("messages", fields.get("input", fields.get("prompt")))
    if isinstance(given, list) and all(isinstance(one, Mapping) for one in given):
        said += [(str(one.get("role", one.get("type", "user"))), one.get("content", one)) for one in given]
    elif given is not None:
        said.append(("user", given))
    return said


def _message(role: str, content: Any) -> dict[str, Any]:
    parts = content if isinstance(content, list) else [content]
    texts = [text for part in parts if (text := _text(part)) is not None]
    attachments = [_named(value, holder, is_data=name in _DATA) for holder, name, value in _addressed(content)]
    return {"role": role, "text": "\n".join(texts), "attachments": attachments}


def _text(part: Any) -> str | None:
    if isinstance(part, Mapping):
        text = part.get("text")
        return text if isinstance(text, str) else None
    return None if part is None else str(part)


def _addressed(content: Any) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """(what holds it, its name, the value) of every address and every piece of data in a content, however deep."""
    for part in content if isinstance(content, list) else [content]:
        waiting = [part] if isinstance(part, Mapping) and not isinstance(part.get("text"), str) else []
        while waiting:
            holder = waiting.pop()
            for name, value in holder.items():
                if isinstance(value, Mapping):
                    waiting.append(value)
                elif isinstance(value, str) and name in (*_ADDRESSES, *_DATA):
                    yield holder, name, value


def _picture(holder: Mapping[str, Any], name: str, value: str) -> str | None:
    head, _, data = value.partition(",")
    if name in _DATA:
        kind, data = str(holder.get("media_type", "")), value
    else:
        kind = head.removeprefix("data:").removesuffix(";base64")
        if head != f"data:{kind};base64":
            return None
    return f"data:{kind};base64,{data}" if kind in PICTURE_KINDS and _BASE64.fullmatch(data) else None


def _named(value: str, holder: Mapping[str, Any], *, is_data: bool) -> str:
    head, comma, data = value.partition(",")
    if head.startswith("data:") and comma:
        return f"{head.removeprefix('data:').partition(';')[0] or 'data'}, {_bytes_of(data):,} bytes"
    if is_data:
        return f"{holder.get('media_type', 'data')}, {_bytes_of(value):,} bytes"
    return value


def _bytes_of(base64_text: str) -> int:
    return len(base64_text.rstrip("=")) * 3 // 4
