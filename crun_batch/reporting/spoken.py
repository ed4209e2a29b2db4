"""A request's body as a conversation: who says what, and which images and files are named. Pure.

Reads the bodies of all four protocols, those that come from a table included: whatever is a text is shown,
whatever has an address is named by it, and data that stands in the body by its kind and size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ADDRESSES = ("url", "image_url", "file_url", "file_id", "uri")
_DATA = ("data", "file_data", "image_data")


def spoken(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages in their order: `role`, `text`, `attachments` (an address each, or kind and size)."""
    said = [("system", fields[key]) for key in ("instructions", "system") if fields.get(key)]
    given = fields.get("messages", fields.get("input", fields.get("prompt")))
    if isinstance(given, list) and all(isinstance(one, Mapping) for one in given):
        said += [(str(one.get("role", one.get("type", "user"))), one.get("content", one)) for one in given]
    elif given is not None:
        said.append(("user", given))
    return [_message(role, content) for role, content in said]


def _message(role: str, content: Any) -> dict[str, Any]:
    parts = content if isinstance(content, list) else [content]
    texts = [text for part in parts if (text := _text(part)) is not None]
    attachments = [name for part in parts for name in _attachments(part)]
    return {"role": role, "text": "\n".join(texts), "attachments": attachments}


def _text(part: Any) -> str | None:
    if isinstance(part, Mapping):
        text = part.get("text")
        return text if isinstance(text, str) else None
    return None if part is None else str(part)


def _attachments(part: Any) -> Iterator[str]:
    """Of one part: every address and every piece of data in it, however deep."""
    waiting = [part] if isinstance(part, Mapping) and not isinstance(part.get("text"), str) else []
    while waiting:
        holder = waiting.pop()
        for name, value in holder.items():
            if isinstance(value, Mapping):
                waiting.append(value)
            elif isinstance(value, str) and name in (*_ADDRESSES, *_DATA):
                yield _named(value, holder, is_data=name in _DATA)


def _named(value: str, holder: Mapping[str, Any], *, is_data: bool) -> str:
    head, comma, data = value.partition(",")
    if head.startswith("data:") and comma:
        return f"{head.removeprefix('data:').partition(';')[0] or 'data'}, {_bytes_of(data):,} bytes"
    if is_data:
        return f"{holder.get('media_type', 'data')}, {_bytes_of(value):,} bytes"
    return value


def _bytes_of(base64_text: str) -> int:
    return len(base64_text.rstrip("=")) * 3 // 4
