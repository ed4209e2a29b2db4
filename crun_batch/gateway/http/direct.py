"""The wire: HTTP/1.1 over the event loop's own connections, plain or under TLS, straight or through a proxy.

Without a thread or a client library between, a request costs a fraction of what it costs over one, and its stage
is known by construction: nothing has left until a request is written to an open connection, and what was written
is never written again. Control calls go the same way, so what a proxy, a certificate, a timeout means is said
once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from pathlib import Path

from crun_batch.gateway.http.addresses import HostAddress, Origin, checked_headers, target_of
from crun_batch.gateway.http.bodies import WireSettings
from crun_batch.gateway.http.connecting import Way
from crun_batch.gateway.http.descriptors import ensure_file_descriptors
from crun_batch.gateway.http.exchange import WireRequest
from crun_batch.gateway.http.proxies import proxy_for
from crun_batch.gateway.http.site import Site
from crun_batch.gateway.http.trust import client_context
from crun_batch.records import Fault, Response

USER_AGENT = "crun-batch"

_OURS = frozenset({"content-length", "transfer-encoding", "connection", "accept-encoding"})
"""Headers that frame the request or its reply: the wire's, whatever the job says."""


class ConnectionRoute:
    """What does not change between requests to one URL with the same headers. Holds the key: it has no repr."""

    __slots__ = ("head", "headers", "site")

    def __init__(self, headers: Mapping[str, str], head: bytes, site: Site) -> None:
        self.headers = headers
        """Kept, because the route is found by their identity."""
        self.head = head
        """Method, target and headers, each with its line end."""
        self.site = site


class DirectWire:
    """See `wire.Wire`."""

    def __init__(
        self, settings: WireSettings, urls: Iterable[str] = (), ca_files: Mapping[str, Path] | None = None
    ) -> None:
        """`urls`: where calls will go; `ca_files`: URL -> whom besides the system to trust there.

        Raises InputError where a URL, a proxy of the environment or a file of certificates cannot be used.
        """
        self._settings = settings
        self._connections = settings.connections
        self._sites: dict[Origin, Site] = {}
        self._is_closed = False
        self._routes: dict[tuple[str, str, int], ConnectionRoute] = {}
        self._ca_files: dict[Origin, tuple[Path, ...]] = {}
        for url, path in (ca_files or {}).items():
            origin = target_of(url).origin
            self._ca_files[origin] = tuple(dict.fromkeys((*self._ca_files.get(origin, ()), path)))
        for url in urls:
            self._site(target_of(url).origin)

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Awaitable[Response | Fault]:
        """See `wire.Wire.post`."""
        route = self._routes.get(("POST", url, id(headers))) or self._route("POST", url, headers)
        message = b"%bcontent-length: %d\r\n\r\n%b" % (route.head, len(body), body)
        return self._send(route.site, message, deadline_seconds)

    async def get(self, url: str, headers: Mapping[str, str], deadline_seconds: float) -> Response | Fault:
        """A GET under the same rules: the control calls."""
        route = self._routes.get(("GET", url, id(headers))) or self._route("GET", url, headers)
        return await self._send(route.site, route.head + b"\r\n", deadline_seconds)

    def _send(self, site: Site, message: bytes, deadline_seconds: float) -> Awaitable[Response | Fault]:
        now = asyncio.get_running_loop().time()
        request = WireRequest(message, now + deadline_seconds, deadline_seconds)
        connection = site.idle_connection(now)
        if connection is None:
            return self._send_anew(site, request)
        return connection.exchange(request)

    async def _send_anew(self, site: Site, request: WireRequest) -> Response | Fault:
        """Over a connection of its own, which others may use afterwards."""
        self._make_room()
        connection = await site.connect(request.deadline_seconds)
        if isinstance(connection, Fault):
            return connection
        if self._is_closed or not connection.is_open:
            connection.abort()
            return Fault("not_sent", "connection", "no connection: closed as soon as it was open")
        return await site.heard(await connection.exchange(request))

    def _make_room(self) -> None:
        """Close an idle connection where with a new one there would be too many, over all sites."""
        if sum(site.open_connections for site in self._sites.values()) >= self._connections:
            idle = [site for site in self._sites.values() if site.idle_connections]
            if idle:
                max(idle, key=lambda site: site.idle_connections).close_oldest()

    def widen(self, connections: int) -> None:
        """See `wire.WidenedWire.widen`."""
        ensure_file_descriptors(connections)
        self._settings.budget.share_among(connections)
        self._connections = max(self._connections, connections)

    async def close(self) -> None:
        """See `wire.Wire.close`."""
        self._is_closed = True
        for site in self._sites.values():
            site.close()
        await asyncio.sleep(0)

    def _route(self, method: str, url: str, headers: Mapping[str, str]) -> ConnectionRoute:
        target = target_of(url)
        site = self._site(target.origin)
        head = _head(method, target, site.way, checked_headers(headers))
        return self._routes.setdefault((method, url, id(headers)), ConnectionRoute(headers, head, site))

    def _site(self, origin: Origin) -> Site:
        if origin not in self._sites:
            proxy = proxy_for(origin)
            needs_tls = origin.scheme == "https" or (proxy is not None and proxy.scheme == "https")
            context = client_context(self._ca_files.get(origin, ())) if needs_tls else None
            self._sites[origin] = Site(Way(origin, proxy, context), self._settings)
        return self._sites[origin]


def _head(method: str, target: HostAddress, way: Way, headers: Mapping[str, str]) -> bytes:
    """Request line and headers, but for the content-length."""
    origin = target.origin
    values = {"host": origin.authority, "user-agent": USER_AGENT, "accept": "*/*"}
    values |= {name.lower(): value for name, value in headers.items() if name.lower() not in _OURS}
    values["accept-encoding"] = "gzip"
    place = target.path
    if way.is_forwarded and way.proxy is not None:
        place = f"{origin.scheme}://{origin.authority}{target.path}"
        if way.proxy.authorization is not None:
            values["proxy-authorization"] = way.proxy.authorization
    lines = [f"{method} {place} HTTP/1.1", *(f"{name}: {value}" for name, value in values.items())]
    return ("\r\n".join(lines) + "\r\n").encode("ascii")
