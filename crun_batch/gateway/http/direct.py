"""The default wire: plain HTTP/1.1 over the event loop's own connections; https and proxies are pyreqwest's work.

Without a thread or a client library between, a plain request costs about half of what it costs over pyreqwest,
which must hand every reply from its thread to ours; and its stage is known by construction: nothing has left until
a request is written to an open connection, and what was written is never written again. TLS stays with pyreqwest,
whose thread does that work on another core.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Iterable, Mapping
from urllib.request import getproxies, proxy_bypass

import httpx

from crun_batch.gateway.http.exchange import Connection, Request
from crun_batch.gateway.http.wire import (
    IDLE_SECONDS,
    USER_AGENT,
    Wire,
    WireSettings,
    checked_headers,
    checked_url,
    is_loopback,
    one_line,
    unusable_url,
)
from crun_batch.records import Fault, Response

ADDRESS_SECONDS = 30.0
"""How long the addresses of a host are used before its name is looked up again."""

DISTRUST_SECONDS = 30.0
LONGEST_DISTRUST_SECONDS = 3600.0
"""How long no connection is kept to a server that closes them without notice; doubled where it goes on."""
COINCIDENCE_SECONDS = 10.0
"""One such end alone says nothing: a second within this time does."""

_OURS = frozenset({"content-length", "transfer-encoding", "connection", "accept-encoding"})
"""Headers that frame the request or its reply: the wire's, whatever the job says."""
_PORT = 80
Address = tuple[str, int]


class DirectWire:
    """See `wire.Wire`."""

    def __init__(self, settings: WireSettings, urls: Iterable[str] = ()) -> None:
        """Raises InputError where one of these URLs needs a client that cannot start."""
        self._settings = settings
        self._sites: dict[tuple[str, int], Site] = {}
        self._is_closed = False
        self._routes: dict[tuple[str, int], Route] = {}
        self._library: Wire | None = None
        if not all(_is_direct(_parsed(url)) for url in urls):
            self._over_library()

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Awaitable[Response | Fault]:
        """See `wire.Wire.post`."""
        route = self._routes.get((url, id(headers))) or self._route(url, headers)
        if route.site is None:
            return self._over_library().post(url, headers, body, deadline_seconds)
        now = asyncio.get_running_loop().time()
        request = Request(route.head, body, now + deadline_seconds, deadline_seconds)
        connection = route.site.idle_connection(now)
        if connection is None:
            return self._post_anew(route.site, request)
        return connection.exchange(request)

    async def _post_anew(self, site: Site, request: Request) -> Response | Fault:
        """Over a connection of its own, which others may use afterwards."""
        self._make_room()
        connection = await site.connect(request.deadline_seconds)
        if isinstance(connection, Fault):
            return connection
        if self._is_closed or not connection.is_usable:
            connection.abort()
            return Fault("not_sent", "connection", "no connection: closed as soon as it was open")
        return await connection.exchange(request)

    def _make_room(self) -> None:
        """Close an idle connection where with a new one there would be too many, over all sites."""
        if sum(site.open_connections for site in self._sites.values()) >= self._settings.connections:
            idle = [site for site in self._sites.values() if site.idle_connections]
            if idle:
                max(idle, key=lambda site: site.idle_connections).close_oldest()

    async def close(self) -> None:
        """See `wire.Wire.close`."""
        self._is_closed = True
        for site in self._sites.values():
            site.close()
        if self._library is not None:
            await self._library.close()
        await asyncio.sleep(0)

    def _route(self, url: str, headers: Mapping[str, str]) -> Route:
        parsed = _parsed(url)
        head = _head(parsed, checked_headers(headers))
        site = self._site(parsed) if _is_direct(parsed) else None
        return self._routes.setdefault((url, id(headers)), Route(headers, head, site))

    def _site(self, url: httpx.URL) -> Site:
        key = url.raw_host.decode(), url.port or _PORT
        return self._sites.setdefault(key, Site(*key, self._settings))

    def _over_library(self) -> Wire:
        if self._library is None:
            from crun_batch.gateway.http.pyreqwest_wire import PyreqwestWire

            self._library = PyreqwestWire(self._settings)
        return self._library


class Route:
    """What does not change between requests to one URL with the same headers. Holds the key: it has no repr."""

    __slots__ = ("head", "headers", "site")

    def __init__(self, headers: Mapping[str, str], head: bytes, site: Site | None) -> None:
        self.headers = headers
        """Kept, because the route is found by their identity."""
        self.head = head
        """The request's head, up to the number of its content-length."""
        self.site = site
        """None: over the library."""


class Site:
    """One host and port: its connections, open and idle, and how to come by new ones."""

    def __init__(self, host: str, port: int, settings: WireSettings) -> None:
        self._host = host
        self._port = port
        self._settings = settings
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._trusted_from = 0.0
        self._distrust_seconds = DISTRUST_SECONDS
        self._addresses: list[Address] = []
        self._looked_up_at = 0.0
        self._lookup: asyncio.Task[None] | None = None
        self._early_end_at = -COINCIDENCE_SECONDS
        self._reaper: asyncio.TimerHandle | None = None

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    def close_oldest(self) -> None:
        """Close the connection that has been idle for the longest time."""
        oldest = next(iter(self._idle))
        del self._idle[oldest]
        oldest.abort()

    def idle_connection(self, now: float) -> Connection | None:
        """The one that was used last, as long as its server may be trusted to keep it open; `now`: the loop's."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if now - connection.idle_since >= IDLE_SECONDS:
                connection.abort()
            elif connection.is_usable:  # if not, the loop is about to read why, and ends it
                return connection
        return None

    async def connect(self, deadline_seconds: float) -> Connection | Fault:
        """A new connection, ready for its first request; what goes wrong here is proven to be `not_sent`."""
        seconds = min(self._settings.connect_timeout_seconds, deadline_seconds)
        try:
            async with asyncio.timeout(seconds):
                return await self._connected(seconds)
        except TimeoutError:
            return Fault("not_sent", "timeout", f"no connection within {seconds:g} s")
        except (OSError, UnicodeError) as error:
            self._addresses = []
            return Fault("not_sent", "connection", f"no connection: {_words(error)}")

    def close(self) -> None:
        """Close all connections; requests under way end as faults of unknown outcome."""
        if self._reaper is not None:
            self._reaper.cancel()
        for connection in list(self._open):
            connection.abort()

    async def _connected(self, seconds: float) -> Connection:
        """Try one address after the other; one that fails is tried last the next time."""
        addresses = await self._resolved()
        trouble: OSError | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(seconds / len(addresses)):
                    return await self._connected_to(address)
            except OSError as error:
                trouble = error
                if address in self._addresses:
                    self._addresses = [*(one for one in self._addresses if one != address), address]
        raise trouble or OSError("the host has no address")

    async def _connected_to(self, address: Address) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(self._new_connection, *address)
        if connection.is_usable:  # it may be gone already
            self._open.add(connection)
        return connection

    def _new_connection(self) -> Connection:
        return Connection(self._settings, freed=self._freed, lost=self._lost)

    def _freed(self, connection: Connection) -> None:
        if connection.idle_since < self._trusted_from:
            connection.abort()
        else:
            self._idle[connection] = None
            if self._reaper is None:
                self._reaper = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._reap)

    def _reap(self) -> None:
        """Close what nobody has used for too long: it takes up a file here and a place at the server."""
        loop = asyncio.get_running_loop()
        while self._idle and loop.time() - next(iter(self._idle)).idle_since >= IDLE_SECONDS:
            self.close_oldest()
        self._reaper = loop.call_later(IDLE_SECONDS, self._reap) if self._idle else None

    def _lost(self, connection: Connection, closed_early: bool) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)
        if closed_early:
            self._distrust(asyncio.get_running_loop().time())

    def _distrust(self, now: float) -> None:
        """A server that closes without notice has every request on a connection of its own, for a while."""
        is_coincidence = now - self._early_end_at > COINCIDENCE_SECONDS
        self._early_end_at = now
        if is_coincidence or now < self._trusted_from:
            return
        if now - self._trusted_from > self._distrust_seconds:  # all was well for long
            self._distrust_seconds = DISTRUST_SECONDS
        self._trusted_from = now + self._distrust_seconds
        self._distrust_seconds = min(2 * self._distrust_seconds, LONGEST_DISTRUST_SECONDS)
        while self._idle:
            self.close_oldest()

    async def _resolved(self) -> list[Address]:
        """The host's addresses, looked up once for all that connect meanwhile."""
        loop = asyncio.get_running_loop()
        if not self._addresses or loop.time() - self._looked_up_at > ADDRESS_SECONDS:
            if self._lookup is None:
                self._lookup = loop.create_task(self._look_up())
            await asyncio.shield(self._lookup)
        return list(self._addresses)

    async def _look_up(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._addresses = list(dict.fromkeys((str(info[4][0]), int(info[4][1])) for info in found))
            self._looked_up_at = loop.time()
        finally:
            self._lookup = None


def _head(url: httpx.URL, headers: Mapping[str, str]) -> bytes:
    """Request line and headers, up to the number of the content-length."""
    values = {"host": url.netloc.decode(), "user-agent": USER_AGENT, "accept": "*/*"}
    values |= {name.lower(): value for name, value in headers.items() if name.lower() not in _OURS}
    values["accept-encoding"] = "gzip"
    lines = [f"POST {url.raw_path.decode()} HTTP/1.1", *(f"{name}: {value}" for name, value in values.items())]
    return ("\r\n".join(lines) + "\r\ncontent-length: ").encode("ascii")


def _parsed(url: str) -> httpx.URL:
    checked_url(url)
    try:
        parsed = httpx.URL(url)
        is_named = bool(parsed.host)
    except (httpx.InvalidURL, UnicodeError):
        raise unusable_url() from None
    if not is_named:
        raise unusable_url()
    return parsed


def _is_direct(url: httpx.URL) -> bool:
    """Plain HTTP, and no proxy of the environment (or of the system's settings) is for this host."""
    if url.scheme != "http":
        return False
    proxies = getproxies()
    if is_loopback(url.host) or not (proxies.get("http") or proxies.get("all")):
        return True
    return bool(proxy_bypass(f"{url.host}:{url.port or _PORT}"))


def _words(error: OSError | UnicodeError) -> str:
    """What the system says, in one line without a number or an address."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
