"""Where a request goes and with which headers: which URLs and headers HTTP can carry at all, and whose they are.

Pure. Must not know how a connection is made. A URL or a header's value is never shown: both may hold a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import SplitResult, quote, unquote, urlsplit

import idna
from msgspec import Struct

from crun_batch.errors import InputError, Mistake

PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[0-9a-z._~-]+")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
_IN_PATH = "/%:@!$&'()*+,;=~"
_IN_QUERY = _IN_PATH + "?"


class Origin(Struct, frozen=True):
    """Scheme, host and port: what connections are made to. Hosts are lower case and ASCII, without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """As the Host header and CONNECT want it: an IPv6 address in brackets, without its scope."""
        name = self.name
        host = f"[{name}]" if ":" in name else name
        return host if self.port == PORTS.get(self.scheme) else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """The host without an IPv6 scope, which means something on this machine alone."""
        return self.host.partition("%")[0]


class HostAddress(Struct, frozen=True):
    """A parsed URL: the origin, and what the request line asks of it."""

    origin: Origin
    path: str


def target_of(url: str) -> HostAddress:
    """The parts of an absolute http or https URL. Raises InputError (key `endpoint.base_url`) for any other."""
    parts = checked_url(url)
    path = quote(parts.path or "/", safe=_IN_PATH)
    if parts.query:
        path += "?" + quote(parts.query, safe=_IN_QUERY)
    return HostAddress(Origin(parts.scheme, _host_of(parts), parts.port or PORTS[parts.scheme]), path)


def _host_of(parts: SplitResult) -> str:
    """The host as connections want it; an IPv6 scope (`%25eth0`) keeps its case."""
    written = parts.netloc.rpartition("@")[2]
    if written.startswith("["):
        address, _, scope = unquote(written[1:].partition("]")[0]).partition("%")
        return f"{address.lower()}%{scope}" if scope else address.lower()
    host = (parts.hostname or "").lower()
    try:
        host = host if host.isascii() else idna.encode(host, uts46=True).decode("ascii")
    except UnicodeError:
        raise unusable_url() from None
    if not _HOST.fullmatch(host):
        raise unusable_url()
    return host


def checked_url(url: str) -> SplitResult:
    """The parts of an absolute http or https URL. Raises InputError (key `endpoint.base_url`) for any other."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0
        if usable and "[" in parts.netloc:
            ip_address(unquote(parts.hostname or ""))
    except ValueError:
        raise unusable_url() from None
    if not usable:
        raise unusable_url()
    return parts


def unusable_url() -> InputError:
    """The complaint about a URL. It does not show it: some URLs carry a key."""
    message = "not a usable URL; it starts with http:// or https:// and names a host"
    return InputError(Mistake(message, key="endpoint.base_url"))


def checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The same headers. Raises InputError (key `endpoint.headers`) naming the first that HTTP cannot carry.

    A value is never shown: it may be the key, and a key pasted with its newline is the usual mistake.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise InputError(Mistake(f"{name!r} is no header name", key="endpoint.headers"))
        if not _HEADER_VALUE.fullmatch(value):
            raise InputError(
                Mistake(
                    f"the value of header {name!r} has a line break or a character outside ASCII in it "
                    "(the value is not shown)",
                    key="endpoint.headers",
                )
            )
    return headers


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine: such requests use no proxy from the environment."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
