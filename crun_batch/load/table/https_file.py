"""A file over https, copied by as few requests as it takes: one that breaks off goes on where it stopped.

The rules:
- https only, for the file and for every redirect. Credentials are never in an address: those for its host in
  ~/.netrc are sent to that host, and to no other that it leads to.
- A copy is whole or there is none: its length must be the one that was told. What changes on the server between
  two requests for one file (its ETag) is fetched anew.
"""

from __future__ import annotations

import netrc
import re
import ssl
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

from crun_batch.errors import InputError
from crun_batch.load.table.copies import RemoteFile, copied_pieces, ensure_room, mistake
from crun_batch.paths import is_there

ATTEMPTS = 5
_PIECE_BYTES = 1 << 18
_SILENCE_SECONDS = 60.0
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_SIGNED = re.compile(
    r"(?i)(^|[?&])(x-amz-signature|x-goog-signature|signature|sig|token|access_token|key|api_key)="
)
_WORDS = {
    401: "wants credentials: put those for its host into ~/.netrc",
    403: "is not for these credentials, or for none",
    404: "is not there",
}


def https_file(address: str) -> RemoteFile:
    """The file at an address. Raises InputError for one with credentials in it, or a pattern."""
    parts = urlsplit(address)
    shown = f"https://{parts.hostname or ''}{parts.path}"
    if parts.username is not None or _SIGNED.search(parts.query):
        says = (
            "holds credentials, which have no place in a job file, where every copy of it shows them: put them "
            "into ~/.netrc, or name the file in its bucket (s3://, gs://, az://)"
        )
        raise mistake(says, shown)
    if "*" in parts.path or not parts.hostname:
        raise mistake("names no single file, and https tells no list of files: name each", shown)
    return RemoteFile(address, lambda path: fetch(address, path))


def fetch(
    address: str, path: Path, headers: Mapping[str, str] = {}, pause: Callable[[float], None] = time.sleep
) -> None:
    """Copy the file at an address.

    `headers` are sent to its host alone. Raises InputError where it cannot be had whole, DiskFailed.
    """
    path.unlink(missing_ok=True)
    etag: str | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            pause(min(0.5 * 2**attempt, 8.0))
        had = path.stat().st_size if is_there(path) and etag is not None else 0
        going_on = {"Range": f"bytes={had}-", "If-Range": etag} if had and etag is not None else {}
        try:
            with opened(address, headers, going_on) as reply:
                etag = _strong(reply.headers.get("ETag"))
                if _copied(reply, path, had):
                    return
        except HTTPError as error:
            if error.code not in _TRANSIENT:
                raise mistake(f"{_WORDS.get(error.code, 'cannot be had')} (HTTP {error.code})", address) from None
            why = f"HTTP {error.code}"
        except URLError as error:
            why = _refused_for_good(error.reason, address)
        except (HTTPException, OSError) as error:
            why = _refused_for_good(error, address)
        else:
            why = "it broke off"
    raise mistake(f"could not be fetched whole in {ATTEMPTS} attempts: {why}", address)


def opened(address: str, headers: Mapping[str, str] = {}, more: Mapping[str, str] = {}) -> Any:
    """The reply to a GET, its body to be read. Raises HTTPError, URLError, OSError."""
    request = urllib.request.Request(_sendable(address), headers={"Accept-Encoding": "identity", **more})
    for name, value in (headers or _netrc(urlsplit(address).hostname or "")).items():
        request.add_unredirected_header(name, value)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=_context()), _HttpsOnly())
    return opener.open(request, timeout=_SILENCE_SECONDS)


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise InputError(f"{req.full_url.partition('?')[0]}: redirects to an address that is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copied(reply: Any, path: Path, had: int) -> bool:
    """Whether the file is whole now."""
    appends = reply.status == 206
    if appends and not (reply.headers.get("Content-Range") or "").startswith(f"bytes {had}-"):
        raise HTTPException("another part of the file came than was asked for")
    length = reply.headers.get("Content-Length")
    if length is None and "chunked" not in (reply.headers.get("Transfer-Encoding") or "").lower():
        raise mistake("tells no length, so nobody can know whether it came whole", reply.url.partition("?")[0])
    if length is not None:
        ensure_room(path.parent, int(length))
    written = copied_pieces(_pieces(reply), path, mode="ab" if appends else "wb")
    return length is None or written == int(length)


def _pieces(reply: Any) -> Iterator[bytes]:
    while piece := reply.read(_PIECE_BYTES):
        yield piece


def _strong(etag: str | None) -> str | None:
    """An ETag by which one file's bytes are known: a weak one says less (RFC 9110, 13.1.5)."""
    return None if etag is None or etag.startswith("W/") else etag


def _refused_for_good(reason: object, address: str) -> str:
    """Why an attempt failed that may be tried again. Raises InputError where another one would fail as well."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        says = f"its certificate is not trusted: {reason.verify_message}; SSL_CERT_FILE may name the file of a CA"
        raise mistake(says, address)
    return str(getattr(reason, "strerror", None) or reason) or type(reason).__name__


def _context() -> ssl.SSLContext:
    """Trusts the system's certificates, or those of SSL_CERT_FILE; certifi's where a system has none."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        import certifi

        context.load_verify_locations(cafile=certifi.where())
    return context


def _netrc(host: str) -> dict[str, str]:
    """The credentials for a host in ~/.netrc, as curl -n sends them."""
    try:
        found = netrc.netrc().authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return {}
    if found is None:
        return {}
    return {"Authorization": "Basic " + b64encode(f"{found[0]}:{found[2]}".encode()).decode("ascii")}


def _sendable(address: str) -> str:
    """The address with all that no request line can hold as %-escapes; those that are there stay."""
    return quote(address, safe="/:?#[]@!$&'()*+,;=%-._~")
