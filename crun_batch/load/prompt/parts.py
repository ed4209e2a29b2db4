"""Images and files of a prompt: a URL stays a URL, a local path becomes a data: URL.

Owns the reading of those files, within a size limit, and the count of what the gateway will fetch by itself.
Only regular files of a known type are read: a table must not be able to send /etc/passwd to a gateway.
"""

from __future__ import annotations

import base64
import stat
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from crun_batch.load.prompt.templates import Unrenderable

MAX_FILE_BYTES = 20_000_000
"""The largest file that is sent."""
MAX_CACHE_CHARACTERS = 64_000_000
"""Data URLs kept for the next row: few-shot images are read once."""

REMOTE = ("http://", "https://")
_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".pdf": "application/pdf",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".html": "text/html",
    ".xml": "application/xml",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
}
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_TEXT_TYPES = ("text", "input_text", "output_text", "refusal", "thinking")
_ELSEWHERE = ("previous_response_id", "conversation")
"""Fields of a request body by which the gateway adds input that it keeps itself."""


def media_type(content: bytes, suffix: str) -> str | None:
    """The media type by the first bytes, else by the name's suffix; None: not one that is sent."""
    for magic, kind in _MAGIC:
        if content.startswith(magic):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return _MEDIA_TYPES.get(suffix.lower())


def is_remote(reference: str) -> bool:
    """Whether the gateway fetches it."""
    return reference[:8].lower().startswith(REMOTE)


def remote_parts(contents: Iterable[Any]) -> int:
    """How many parts of these message contents are not in the request themselves: URLs and ids of files."""
    return sum(_is_elsewhere(part) for content in contents if isinstance(content, list) for part in content)


def remote_parts_of_body(body: Mapping[str, Any]) -> int:
    """The same for a whole request body of any protocol, with the conversation that it may refer to."""
    turns = [turn for name in ("messages", "input") if isinstance(body.get(name), list) for turn in body[name]]
    contents = [turn["content"] if isinstance(turn, dict) and "content" in turn else [turn] for turn in turns]
    return remote_parts(contents) + sum(body.get(name) is not None for name in _ELSEWHERE)


def _is_elsewhere(value: Any, name: str = "") -> bool:
    if isinstance(value, str):
        return name == "file_id" or (is_remote(value) and (name.endswith("url") or name in ("image", "file")))
    if isinstance(value, list):
        return any(map(_is_elsewhere, value))
    if not isinstance(value, Mapping) or value.get("type") in _TEXT_TYPES:
        return False
    return value.get("type") == "item_reference" or any(_is_elsewhere(item, key) for key, item in value.items())


class Attachments:
    """Local files as data: URLs, relative to `base_dir`, the last used ones remembered until they change."""

    def __init__(self, base_dir: Path) -> None:
        self._base_dir = base_dir
        self._cache: OrderedDict[tuple[str, int, int, int], str] = OrderedDict()
        self._cached_characters = 0

    def url(self, reference: str, *, image: bool) -> str:
        """What goes into the request: the URL itself, or a data: URL. Unrenderable where there is no such file."""
        if is_remote(reference) or reference[:5].lower() == "data:":
            return reference
        if "://" in reference or not reference.strip():
            raise Unrenderable(f"'{reference}' is neither an http(s) URL nor the path of a local file")
        path = self._base_dir / reference
        found = _look_at(path)
        key = (str(path), found.st_ino, found.st_mtime_ns, found.st_size)
        if key in self._cache:
            self._cache.move_to_end(key)
        else:
            self._remember(key, _data_url(path))
        url = self._cache[key]
        if image and not url.startswith("data:image/"):
            raise Unrenderable(f"the file {path} is no image; send it as a part of type file")
        return url

    def _remember(self, key: tuple[str, int, int, int], url: str) -> None:
        self._cache[key] = url
        self._cached_characters += len(url)
        while self._cached_characters > MAX_CACHE_CHARACTERS and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_characters -= len(dropped)


def _look_at(path: Path) -> Any:
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise Unrenderable(f"the file {path} cannot be read: {_words(error)}") from None
    if not stat.S_ISREG(found.st_mode):
        raise Unrenderable(f"{path} is not a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise Unrenderable(f"the file {path} has {found.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are sent")
    return found


def _data_url(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unrenderable(f"the file {path} cannot be read: {_words(error)}") from None
    if len(content) > MAX_FILE_BYTES:
        raise Unrenderable(f"the file {path} has grown over {MAX_FILE_BYTES:,} bytes")
    kind = media_type(content, path.suffix)
    if kind is None:
        known = ", ".join(sorted(_MEDIA_TYPES))
        raise Unrenderable(f"the file {path} is of no type that is sent ({known})")
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _words(error: OSError | ValueError) -> str:
    return (error.strerror or "unknown") if isinstance(error, OSError) else str(error)
