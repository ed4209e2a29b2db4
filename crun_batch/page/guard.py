"""Who may ask the page for what: decided from the head of a request alone, before anything is read. Pure.

A page on loopback is reached by every site that its reader visits and by every user of the machine. So: a name
that was pointed at this address (DNS rebinding) is refused by its Host, another site by its Origin and by what the
browser says of it (Fetch Metadata), and whoever asks for rows shows the token, which no other site and no other
user knows. The token goes in a header that a form or a link cannot send; it stands in no address that is
sent, and in no cookie, which every port of this host would get. https://www.w3.org/TR/fetch-metadata/ and
https://html.spec.whatwg.org/multipage/browsers.html#origin say what browsers send.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from msgspec import Struct

TOKEN_HEADER = "x-crun-batch-token"
API = "/api/"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
MOST_BODY_BYTES = 1_000_000
PAGE_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""On every answer: nothing from elsewhere is loaded, and no text becomes markup by way of a script."""


class Policy(Struct, frozen=True):
    """The token, and the names by which this server may be called."""

    token: str
    names: tuple[str, ...] = LOOPBACK_NAMES
    any_address: bool = False
    """It listens beyond loopback: it may be called by any address in digits, which no DNS can point elsewhere."""


class Denial(Struct, frozen=True):
    """Why a request is not answered."""

    status: int
    words: str


def denial(policy: Policy, method: str, path: str, headers: Sequence[tuple[str, str]]) -> Denial | None:
    """Why this request is refused; None: it is answered. `headers` with names in lower case."""
    is_api = path.startswith(API)
    host = _only(headers, "host")
    if host is None or not _is_ours(policy, host):
        return Denial(421, "this page is not served under that name")
    origin = _only(headers, "origin", missing="")
    if origin is None or (origin and not _same_origin(origin, host)):
        return Denial(403, "another site asks")
    if not _is_from_here(headers, is_api=is_api):
        return Denial(403, "another site asks")
    if method not in (("GET", "HEAD", "POST") if is_api else ("GET", "HEAD")):
        return Denial(405, "this page is only read")
    if not is_api:
        return None
    token = _only(headers, TOKEN_HEADER) or ""
    if not hmac.compare_digest(token.encode(), policy.token.encode()):
        return Denial(401, "open the address that crun-batch view has printed: it has the token")
    if method == "POST" and _only(headers, "content-type") != "application/json":
        return Denial(415, "what is sent must be application/json")
    return None


def _only(headers: Sequence[tuple[str, str]], name: str, missing: str | None = None) -> str | None:
    """The value of a header that is there once; `missing` where it is not, None where it is there twice."""
    found = [value for key, value in headers if key == name]
    return missing if not found else found[0] if len(found) == 1 else None


def _is_ours(policy: Policy, host: str) -> bool:
    name = _hostname(host)
    if name is None:
        return False
    return name in policy.names or (policy.any_address and _is_address(name))


def _hostname(host: str) -> str | None:
    """The name in a Host header, in lower case, without port and brackets; None where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        port_is_number = parts.port is None or parts.port >= 0
    except ValueError:
        return None
    is_plain = parts.netloc == host and "@" not in host and not (parts.path or parts.query or parts.fragment)
    return parts.hostname if is_plain and port_is_number else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same_origin(origin: str, host: str) -> bool:
    return origin.lower() == f"http://{host.lower()}"


def _is_from_here(headers: Sequence[tuple[str, str]], *, is_api: bool) -> bool:
    """By what the browser says of who asks; programs say nothing. A link from elsewhere may open the bare page."""
    site = _only(headers, "sec-fetch-site", missing="none")
    if site in ("same-origin", "none"):
        return True
    is_navigation = (
        _only(headers, "sec-fetch-mode") == "navigate" and _only(headers, "sec-fetch-dest") == "document"
    )
    return is_navigation and not is_api
