"""One origin: its connections, open and idle, how to come by new ones, and whether its server keeps them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from msgspec import structs

from crun_batch.gateway.http.bodies import WireSettings
from crun_batch.gateway.http.connecting import Address, NoConnection, Way, opened, words
from crun_batch.gateway.http.exchange import HttpConnection
from crun_batch.gateway.http.heads import SPEAKS_TLS
from crun_batch.gateway.http.speech import SchemeProbe
from crun_batch.gateway.http.tls import NO_TLS_THERE
from crun_batch.records import Fault, Response

IDLE_SECONDS = 4.0
"""A pooled connection is not used again after this time: common servers close theirs after 5 s at the earliest
(uvicorn, Node), and a request that meets a closing connection ends `unknown`."""
ADDRESS_SECONDS = 30.0
"""How long the addresses of a host are used before its name is looked up again."""
DISTRUST_SECONDS = 30.0
LONGEST_DISTRUST_SECONDS = 3600.0
"""How long no connection is kept to a server that closes them without notice; doubled where it goes on."""
WONDERED_AFTER_SECONDS = 1.5
"""How long a first TLS handshake is waited for before it is asked whether TLS is spoken there at all."""
NO_HANDSHAKE = "takes connections, but answers no TLS handshake; is it the right port?"
COINCIDENCE_SECONDS = 10.0
"""One such end alone says nothing: a second within this time does."""


class Site:
    """Where requests of one origin go, over which way."""

    def __init__(self, way: Way, settings: WireSettings) -> None:
        self.way = way
        self._settings = settings
        self._session: ssl.SSLSession | None = None
        """Its keys spare the next connection most of its handshake."""
        self._wants_session = False
        self._open: set[HttpConnection] = set()
        self._idle: dict[HttpConnection, None] = {}
        self._trusted_from = 0.0
        self._distrust_seconds = DISTRUST_SECONDS
        self._addresses: list[Address] = []
        self._looked_up_at = 0.0
        self._lookup: asyncio.Task[None] | None = None
        self._early_end_at = -COINCIDENCE_SECONDS
        self._reaper: asyncio.TimerHandle | None = None
        self._probe = SchemeProbe(way.origin)
        self._is_understood = way.proxy is not None
        """Nobody need wonder which scheme is spoken: a reply came, or a handshake was done, or a proxy knows."""

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

    def idle_connection(self, now: float) -> HttpConnection | None:
        """The one that was used last, as long as its server may be trusted to keep it open; `now`: the loop's."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if now - connection.idle_since >= IDLE_SECONDS:
                connection.abort()
            elif connection.is_usable:  # if not, the loop is about to read why, and ends it
                return connection
        return None

    async def connect(self, deadline_seconds: float) -> HttpConnection | Fault:
        """A new connection, ready for its first request; what goes wrong here is proven to be `not_sent`."""
        seconds = min(self._settings.connect_timeout_seconds, deadline_seconds)
        if self._is_understood or self.way.origin.scheme == "http":
            return await self._attempt(seconds)
        attempt = asyncio.ensure_future(self._attempt(seconds))
        try:
            await asyncio.wait([attempt], timeout=WONDERED_AFTER_SECONDS)
            speech = await self._probe.speech(self._addresses) if _is_doubtful(attempt) else "tls"
            found = self._no_tls() if speech == "http" else await attempt
        finally:
            attempt.cancel()
        if isinstance(found, HttpConnection):
            self._is_understood = True
        elif found.kind == "timeout" and speech == "silent":
            return structs.replace(found, message=f"{found.message}: {self._place} {NO_HANDSHAKE}")
        return found

    async def heard(self, result: Response | Fault) -> Response | Fault:
        """What the first request of a connection came to; of a fault, where it is so, that TLS is spoken there."""
        if isinstance(result, Response):
            self._is_understood = True
        if self._is_understood or isinstance(result, Response) or result.kind == "timeout" or result.status:
            return result
        speaks_tls = await self._probe.speech(self._addresses) == "tls"
        return Fault("unknown", result.kind, SPEAKS_TLS, is_lasting=True) if speaks_tls else result

    @property
    def _place(self) -> str:
        return f"{self.way.origin.name}:{self.way.origin.port}"

    def _no_tls(self) -> Fault:
        return Fault("not_sent", "connection", f"no connection: {self._place} {NO_TLS_THERE}", is_lasting=True)

    async def _attempt(self, seconds: float) -> HttpConnection | Fault:
        proxy = self.way.proxy
        try:
            async with asyncio.timeout(seconds):
                return await self._connected(seconds)
        except TimeoutError:
            through = f" through {proxy.place}" if proxy is not None else ""
            return Fault("not_sent", "timeout", f"no connection within {seconds:g} s{through}")
        except NoConnection as error:
            return Fault("not_sent", "connection", f"no connection: {error}", is_lasting=error.is_lasting)
        except (OSError, UnicodeError) as error:
            self._addresses = []
            return Fault("not_sent", "connection", f"no connection to {self._place}: {words(error)}")

    def close(self) -> None:
        """Close all connections; requests under way end as faults of unknown outcome."""
        if self._reaper is not None:
            self._reaper.cancel()
        for connection in list(self._open):
            connection.abort()

    async def _connected(self, seconds: float) -> HttpConnection:
        """Try one address after the other; one that fails is tried last the next time."""
        addresses = await self._resolved()
        trouble: Exception | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(seconds / len(addresses)):
                    return await self._connected_to(address)
            except (OSError, NoConnection) as error:
                if isinstance(error, NoConnection) and error.is_lasting:
                    raise
                trouble = error
                if address in self._addresses:
                    self._addresses = [*(one for one in self._addresses if one != address), address]
        raise trouble or OSError("the host has no address")

    async def _connected_to(self, address: Address) -> HttpConnection:
        loop = asyncio.get_running_loop()
        fresh = await opened(self.way, address, self._session)

        def new_connection() -> HttpConnection:
            return HttpConnection(self._settings, fresh.sealing, freed=self._freed, lost=self._lost)

        try:
            _, connection = await loop.create_connection(new_connection, sock=fresh.socket)
        except BaseException:
            fresh.socket.close()
            raise
        if connection.is_open:  # it may be gone already
            self._open.add(connection)
        self._wants_session = fresh.sealing is not None and self.way.reuses_sessions and not fresh.sealing.goes_on
        return connection

    def _freed(self, connection: HttpConnection) -> None:
        self._remember_session(connection)
        if connection.idle_since < self._trusted_from:
            connection.abort()
        else:
            self._idle[connection] = None
            if self._reaper is None:
                self._reaper = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._reap)

    def _remember_session(self, connection: HttpConnection) -> None:
        """Once, until a server does not take it any more: reading it costs as much as it spares."""
        if self._wants_session and connection.sealing is not None:
            self._session, self._wants_session = connection.sealing.session, False

    def _reap(self) -> None:
        """Close what nobody has used for too long: it takes up a file here and a place at the server."""
        loop = asyncio.get_running_loop()
        while self._idle and loop.time() - next(iter(self._idle)).idle_since >= IDLE_SECONDS:
            self.close_oldest()
        self._reaper = loop.call_later(IDLE_SECONDS, self._reap) if self._idle else None

    def _lost(self, connection: HttpConnection, closed_early: bool) -> None:
        self._remember_session(connection)
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
        host, port = self.way.first_stop
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._addresses = list(dict.fromkeys(_address(family, place) for family, _, _, _, place in found))
            self._looked_up_at = loop.time()
        except socket.gaierror as error:
            raise _unknown_name(self.way, error) from None
        finally:
            self._lookup = None


def _unknown_name(way: Way, error: socket.gaierror) -> NoConnection:
    """Whose name could not be looked up: the gateway's, or that of the proxy before it."""
    is_lasting = error.errno == socket.EAI_NONAME
    if way.proxy is not None:
        return NoConnection(f"{way.proxy.place}: no host of that name ({words(error)})", is_lasting=is_lasting)
    name = f"no host has the name {way.origin.name} ({words(error)}): look at endpoint.base_url"
    return NoConnection(name, is_lasting=is_lasting)


def _is_doubtful(attempt: asyncio.Future[HttpConnection | Fault]) -> bool:
    """Whether a first handshake takes long, or failed in a way that may be a port without TLS."""
    found = attempt.result() if attempt.done() else None
    return found is None or (isinstance(found, Fault) and not found.is_lasting)


def _address(family: socket.AddressFamily, place: tuple[Any, ...]) -> Address:
    """Host and port; a link-local IPv6 address says over which interface."""
    host, port = str(place[0]).partition("%")[0], int(place[1])
    scope = place[3] if len(place) > 3 else 0
    return family, (f"{host}%{scope}" if scope else host, port)
