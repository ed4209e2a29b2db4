"""Images and files of a prompt: a URL stays a URL, a local path becomes a data: URL.

Owns the reading of those files, within a size limit, and the count of what the gateway will fetch by itself.
Only regular files of a known type below the job's folders are read, links resolved, at the moment they are sent: a
table must not be able to send /etc/passwd to a gateway.
"""

from __future__ import annotations

import base64
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from crun_batch.load.folders import ADVICE, Folders
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


def unsendable(message: Mapping[str, Any]) -> str | None:
    """Why a message of a table cannot be sent: an image or file that is neither a URL nor data. None: it can.

    A row's own messages are sent as they are: nothing reads local files for them.
    """
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, Mapping):
            continue
        for name in ("url", "image_url", "image", "file"):
            value = part.get(name)
            reference = value.get("url") if isinstance(value, Mapping) else value
            if isinstance(reference, str) and not is_remote(reference) and reference[:5].lower() != "data:":
                return (
                    f"its part of type '{part.get('type')}' names '{reference[:80]}', which is neither an"
                    " http(s) URL nor a data: URL; local files are for parts of prompt.messages"
                )
        if part.get("type") == "image" and not isinstance(part.get("url"), str) and "source" not in part:
            return "its part of type 'image' has no `url`"
        if part.get("type") == "image_url" and not part.get("image_url"):
            return "its part of type 'image_url' has no `image_url`"
    return None


class Attachments:
    """Local files below `folders` as data: URLs, the last used ones remembered until they change."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._cache: OrderedDict[tuple[str, int, int, int], str] = OrderedDict()
        self._cached_characters = 0

    def url(self, reference: str, *, image: bool) -> str:
        """What goes into the request: the URL itself, or a data: URL. Unrenderable where there is no such file."""
        if is_remote(reference) or reference[:5].lower() == "data:":
            return reference
        if "://" in reference or not reference.strip():
            raise Unrenderable(f"'{reference}' is neither an http(s) URL nor the path of a local file")
        path = self._inside(reference)
        found = _look_at(path)
        key = (str(path), found.st_ino, found.st_mtime_ns, found.st_size)
        if key in self._cache:
            self._cache.move_to_end(key)
        else:
            self._remember(key, _data_url(path, found))
        url = self._cache[key]
        if image and not url.startswith("data:image/"):
            raise Unrenderable(f"the file {path} is no image; send it as a part of type file")
        return url

    def _inside(self, reference: str) -> Path:
        """The file itself, behind any links; Unrenderable where it is not below the job's folders."""
        path = self._folders.base / reference
        try:
            real = self._folders.resolved(path)
        except ValueError as error:
            raise Unrenderable(f"the file {path} cannot be read: {_words(error)}") from None
        if real is None:
            raise Unrenderable(f"the file {path} is outside the job's folder {self._folders.base}; {ADVICE}")
        return real

    def _remember(self, key: tuple[str, int, int, int], url: str) -> None:
        self._cache[key] = url
        self._cached_characters += len(url)
        while self._cached_characters > MAX_CACHE_CHARACTERS and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached_characters -= len(dropped)


def _look_at(path: Path) -> os.stat_result:
    try:
        found = path.lstat()
    except (OSError, ValueError) as error:
        raise Unrenderable(f"the file {path} cannot be read: {_words(error)}") from None
    if not stat.S_ISREG(found.st_mode):
        raise Unrenderable(f"{path} is not a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise Unrenderable(f"the file {path} has {found.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are sent")
    return found


def _data_url(path: Path, seen: os.stat_result) -> str:
    """Of the very file that was looked at: a link that is put in its place meanwhile is not followed."""
    try:
        with open(path, "rb", opener=_without_links) as file:
            if not os.path.samestat(seen, os.fstat(file.fileno())):
                raise Unrenderable(f"the file {path} was replaced while it was read")
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


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _words(error: OSError | ValueError) -> str:
    return (error.strerror or "unknown") if isinstance(error, OSError) else str(error)
