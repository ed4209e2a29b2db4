"""Files of a dataset repository on the Hugging Face hub: `hf://datasets/OWNER/NAME[@REVISION]/PATH`.

By the hub's documented addresses (huggingface.co/docs/hub/api): `/api/datasets/REPO/revision/REV` tells the
commit, `/api/datasets/REPO/tree/COMMIT` lists files, `/datasets/REPO/resolve/COMMIT/PATH` is one. A revision is
looked up once, so all files are of one commit. The token is the one that `hf auth login` keeps, or HF_TOKEN.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote

from crun_batch.load.table.copies import RemoteFile, base_of, is_pattern, matches, mistake
from crun_batch.load.table.https_file import fetch, opened

_ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?/(.+)")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
MOST_REPLY_BYTES = 1 << 24
MOST_PAGES = 100
_WORDS = {
    401: "is not there, or is for those who are logged in: set HF_TOKEN, or hf auth login",
    403: "is gated: ask for access on its page, and set HF_TOKEN",
    404: "is not there",
}


class HubPlace(NamedTuple):
    """Files of a repository at a revision."""

    repository: str
    revision: str
    path: str


def hub_files(address: str) -> list[RemoteFile]:
    """The files that an address or a pattern means, sorted by name, all of one commit. Raises InputError."""
    place = hub_place(address)
    commit = _commit(place, address)
    paths = [place.path] if not is_pattern(place.path) else sorted(_listed(place, commit, address))
    if not paths:
        raise mistake("no file matches", address)
    return [_remote(place, commit, path) for path in paths]


def hub_place(address: str) -> HubPlace:
    """What an address means. Raises InputError where it names no file."""
    written = _ADDRESS.fullmatch(address)
    if written is None:
        raise mistake("names no file; write hf://datasets/OWNER/NAME/PATH, or .../NAME@REVISION/PATH", address)
    return HubPlace(written[1], written[2] or "main", written[3])


def _remote(place: HubPlace, commit: str, path: str) -> RemoteFile:
    url = f"{_endpoint()}/datasets/{place.repository}/resolve/{commit}/{quote(path)}"
    address = f"hf://datasets/{place.repository}@{commit[:12]}/{path}"

    def copy_to(target: Path) -> None:
        fetch(url, target, _authorization())

    return RemoteFile(address, copy_to)


def _commit(place: HubPlace, address: str) -> str:
    url = f"{_endpoint()}/api/datasets/{place.repository}/revision/{quote(place.revision, safe='%')}"
    found, _ = _asked(url, address)
    sha = found.get("sha") if isinstance(found, dict) else None
    if not isinstance(sha, str) or not sha:
        raise mistake("the hub's reply names no commit", address)
    return sha


def _listed(place: HubPlace, commit: str, address: str) -> Iterator[str]:
    folder = quote(base_of(place.path))
    url: str | None = (
        f"{_endpoint()}/api/datasets/{place.repository}/tree/{commit}/{folder}".rstrip("/") + "?recursive=true"
    )
    for _ in range(MOST_PAGES):
        if url is None:
            return
        entries, url = _asked(url, address)
        for entry in entries if isinstance(entries, list) else ():
            path = entry.get("path") if isinstance(entry, dict) and entry.get("type") == "file" else None
            if isinstance(path, str) and matches(path, place.path):
                yield path
    raise mistake(f"the list of its files has more than {MOST_PAGES} pages", address)


def _asked(url: str, address: str) -> tuple[Any, str | None]:
    """The JSON value at an address of the hub, and where its next page is."""
    try:
        with opened(url, _authorization()) as reply:
            value = json.loads(reply.read(MOST_REPLY_BYTES))
            more = _NEXT.search(reply.headers.get("Link") or "")
            return value, more[1] if more else None
    except HTTPError as error:
        raise mistake(f"{_WORDS.get(error.code, 'cannot be asked for')} (HTTP {error.code})", address) from None
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise mistake(f"the hub cannot be reached: {reason}", address) from None


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _authorization() -> dict[str, str]:
    """The token for the hub; nothing where there is none."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    token = os.environ.get("HF_TOKEN", "").strip()
    try:
        token = token or Path(os.environ.get("HF_TOKEN_PATH") or home / "token").read_text().strip()
    except OSError:
        return {}
    return {"Authorization": f"Bearer {token}"} if token else {}
