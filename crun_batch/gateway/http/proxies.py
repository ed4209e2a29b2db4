"""Which proxy of the environment a request goes through: one rule for paid requests and for control calls.

`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` in either case (lower case wins, as with curl), and where
none is set what the system's settings say (macOS). Loopback never goes through one. Pure but for reading these.
A proxy's password is in no repr and no message.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Literal
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.gateway.http.addresses import Origin, is_loopback

ProxyScheme = Literal["http", "https", "socks4", "socks5"]
SCHEMES: Mapping[str, tuple[ProxyScheme, int]] = {
    "http": ("http", 80),
    "https": ("https", 443),
    "socks": ("socks5", 1080),
    "socks5": ("socks5", 1080),
    "socks5h": ("socks5", 1080),
    "socks4": ("socks4", 1080),
    "socks4a": ("socks4", 1080),
}
"""As written -> what is spoken to the proxy, and its usual port. Names are looked up by the proxy."""
SYSTEM = "the system's proxy settings"


class Proxy(Struct, frozen=True):
    """A proxy, and where it is written that it is to be used."""

    scheme: ProxyScheme
    host: str
    port: int
    variable: str
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Proxy({self.place})"

    @property
    def place(self) -> str:
        """The proxy in words, and who names it."""
        return f"the proxy {self.host}:{self.port} ({self.variable})"

    @property
    def authorization(self) -> str | None:
        """The value of Proxy-Authorization."""
        if self.user is None:
            return None
        return "Basic " + b64encode(f"{self.user}:{self.password or ''}".encode()).decode("ascii")


def proxy_for(origin: Origin, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy for an origin; None: straight. Raises InputError where the setting that counts is no proxy."""
    if is_loopback(origin.name):
        return None
    found = _set(environ, f"{origin.scheme}_proxy") or _set(environ, "all_proxy")
    excluded = _set(environ, "no_proxy")
    if excluded is not None and is_excluded(origin, excluded[1]):
        return None
    if found is None:
        found = _of_the_system(origin) if excluded is None else None
    return parsed_proxy(*found) if found is not None else None


def is_excluded(origin: Origin, rules: str) -> bool:
    """Whether NO_PROXY names this host: `*`, a domain and all below it, an address, a network; with a port."""
    return any(_matches(origin, rule.strip().lower()) for rule in rules.split(",") if rule.strip())


def _matches(origin: Origin, rule: str) -> bool:
    if rule == "*":
        return True
    host, colon, port = rule.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        if int(port) != origin.port:
            return False
        rule = host
    rule = rule.strip("[]")
    try:
        return ip_address(origin.name) in ip_network(rule, strict=False)
    except ValueError:
        domain = rule.removeprefix("*").lstrip(".")
        return bool(domain) and (origin.name == domain or origin.name.endswith(f".{domain}"))


def parsed_proxy(variable: str, value: str) -> Proxy:
    """A proxy as it is written. Raises InputError that names the variable, never its value."""
    text = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(text)
        scheme, usual_port = SCHEMES[parts.scheme]
        host, port = parts.hostname or "", parts.port or usual_port
        user = unquote(parts.username) if parts.username is not None else None
        password = unquote(parts.password) if parts.password is not None else None
    except (ValueError, KeyError):
        raise _no_proxy(variable) from None
    if not host or any(character.isspace() for character in host) or parts.path.strip("/"):
        raise _no_proxy(variable)
    return Proxy(scheme, host, port, variable, user, password)


def _no_proxy(variable: str) -> InputError:
    return InputError(
        f"{variable} names no proxy that can be used (its value is not shown)",
        advice=f"Write it as http://host:port, https://host:port or socks5://host:port, or unset {variable}.",
    )


def _set(environ: Mapping[str, str], name: str) -> tuple[str, str] | None:
    """The variable as it is written, and its value."""
    for written in (name, name.upper()):
        if environ.get(written):
            return written, environ[written]
    return None


def _of_the_system(origin: Origin) -> tuple[str, str] | None:
    proxies = getproxies()
    value = proxies.get(origin.scheme) or proxies.get("all")
    if not value or proxy_bypass(f"{origin.name}:{origin.port}"):
        return None
    return SYSTEM, value
