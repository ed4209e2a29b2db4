"""How a connection comes about: to an address, through a proxy, under TLS; nothing of a request leaves meanwhile.

Read from top to bottom it is what happens on the wire, one step after the other. Whatever goes wrong here is
proven to be `not_sent`; where it will go wrong each time until somebody changes something, it says so
(`is_lasting`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from typing import NamedTuple, Protocol

from msgspec import Struct

from crun_batch.gateway.failures import message_line
from crun_batch.gateway.http.addresses import Origin
from crun_batch.gateway.http.proxies import Proxy
from crun_batch.gateway.http.tls import Nested, TlsChannel, words_of

Address = tuple[socket.AddressFamily, tuple[str, int]]
Sealing = TlsChannel | Nested

READ_BYTES = 64 * 2**10
MAX_PROXY_HEAD_BYTES = 64 * 2**10
_PROXY_STATUS = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})")
PROXY_REFUSALS = {
    401: "does not accept the user and the password",
    403: "does not let this machine go to {authority}",
    405: "makes no tunnels (CONNECT)",
    407: "does not accept the user and the password",
}
"""A proxy's answer to CONNECT -> what it means; it will say so again."""


class NoConnection(Exception):
    """No connection came about. `is_lasting`: nor will the next, until somebody changes something."""

    def __init__(self, message: str, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting


class Way(Struct, frozen=True):
    """How to get to an origin."""

    origin: Origin
    proxy: Proxy | None
    context: ssl.SSLContext | None
    """Whom to trust; None: plain HTTP and no https proxy."""

    @property
    def first_stop(self) -> tuple[str, int]:
        """Host and port of whom the socket goes to."""
        stop = self.proxy or self.origin
        return stop.host, stop.port

    @property
    def is_forwarded(self) -> bool:
        """Whether an HTTP proxy reads the requests and makes its own of them."""
        return self.proxy is not None and self.proxy.scheme in ("http", "https") and self.origin.scheme == "http"

    @property
    def reuses_sessions(self) -> bool:
        """Not where the system checks certificates itself (macOS): it wants to see them each time."""
        return type(self.context) is ssl.SSLContext


class Opened(NamedTuple):
    """A socket that is ready for requests, and what seals them."""

    socket: socket.socket
    sealing: Sealing | None


class ByteStream(Protocol):
    """Bytes to and from the other side, while a connection comes about."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes:
        """At least one byte; none at all: the end."""
        ...


class SocketStream:
    """A `ByteStream` over a socket that is connected."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        return await self._loop.sock_recv(self._socket, READ_BYTES)


class SealedStream:
    """A `ByteStream` under TLS over another."""

    def __init__(self, stream: ByteStream, sealer: TlsChannel) -> None:
        self.sealer = sealer
        self._stream = stream

    async def send(self, data: bytes) -> None:
        await self._stream.send(self.sealer.seal(data))

    async def receive(self) -> bytes:
        while True:
            data = await self._stream.receive()
            opened = self.sealer.open(data) if data else b""
            if opened or not data or self.sealer.is_ended or self.sealer.trouble:
                return opened


async def opened(way: Way, address: Address, session: ssl.SSLSession | None) -> Opened:
    """A socket to the origin, TLS included. Raises NoConnection and OSError; the socket is then closed."""
    connected = await _through_socks(way, address) if _is_socks(way.proxy) else await _connected(way, address)
    try:
        return Opened(connected, await _sealing(way, SocketStream(connected), session))
    except BaseException:
        connected.close()
        raise


async def _connected(way: Way, address: Address) -> socket.socket:
    """A socket to the first stop."""
    family, place = address
    fresh = socket.socket(family, socket.SOCK_STREAM)
    try:
        fresh.setblocking(False)
        await asyncio.get_running_loop().sock_connect(fresh, place)
    except OSError as error:
        fresh.close()
        if way.proxy is None:
            raise
        raise NoConnection(f"{way.proxy.place}: {words(error)}") from None
    except BaseException:
        fresh.close()
        raise
    return fresh


async def _sealing(way: Way, stream: ByteStream, session: ssl.SSLSession | None) -> Sealing | None:
    """Everything between the socket and the first request."""
    origin, proxy, context = way.origin, way.proxy, way.context
    outer: TlsChannel | None = None
    if context is not None and proxy is not None and proxy.scheme == "https":
        outer = await _shaken(stream, context, proxy.place, proxy.host)
        stream = SealedStream(stream, outer)
    if context is None or origin.scheme == "http":
        return outer
    came = b""
    if proxy is not None and not _is_socks(proxy):
        came = await _tunnelled(stream, origin, proxy)
    place = f"{origin.name}:{origin.port}"
    inner = await _shaken(stream, context, place, origin.name, session, came)
    return inner if outer is None else Nested(outer, inner)


async def _shaken(
    stream: ByteStream,
    context: ssl.SSLContext,
    place: str,
    name: str,
    session: ssl.SSLSession | None = None,
    came: bytes = b"",
) -> TlsChannel:
    """The handshake with `name`; `came`: what it has said already."""
    sealer = TlsChannel(context, name, session)
    if came:
        sealer.take(came)
    try:
        while not sealer.shake():
            await _say(stream, sealer)
            sealer.take(await stream.receive())
        await _say(stream, sealer)
    except ssl.SSLError as error:
        message, is_lasting = words_of(error, place, name)
        with contextlib.suppress(OSError):
            await _say(stream, sealer)
        raise NoConnection(message, is_lasting=is_lasting) from None
    return sealer


async def _say(stream: ByteStream, sealer: TlsChannel) -> None:
    data = sealer.to_send()
    if data:
        await stream.send(data)


async def _tunnelled(stream: ByteStream, origin: Origin, proxy: Proxy) -> bytes:
    """Have an HTTP proxy make a tunnel to the origin (CONNECT); what has come through it already."""
    host = f"[{origin.name}]" if ":" in origin.name else origin.name
    authority = f"{host}:{origin.port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"host: {authority}"]
    if proxy.authorization is not None:
        lines.append(f"proxy-authorization: {proxy.authorization}")
    await stream.send(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    came = b""
    while b"\r\n\r\n" not in came:
        data = await stream.receive()
        if not data or len(came) > MAX_PROXY_HEAD_BYTES:
            raise NoConnection(f"{proxy.place} closed the connection" if not data else f"{proxy.place}: no HTTP")
        came += data
    head, _, rest = came.partition(b"\r\n\r\n")
    said = _PROXY_STATUS.match(head)
    if said is None:
        raise NoConnection(f"{proxy.place} does not answer as an HTTP proxy", is_lasting=True)
    status = int(said[1])
    if 200 <= status < 300:
        return rest
    refusal = PROXY_REFUSALS.get(status, "cannot connect to {authority}").format(authority=authority)
    raise NoConnection(f"{proxy.place} {refusal} (HTTP {status})", is_lasting=status in PROXY_REFUSALS)


def _is_socks(proxy: Proxy | None) -> bool:
    return proxy is not None and proxy.scheme in ("socks4", "socks5")


async def _through_socks(way: Way, address: Address) -> socket.socket:
    """A socket to the origin that a SOCKS proxy relays; it looks the origin's name up."""
    from python_socks import ProxyError, ProxyType
    from python_socks.async_.asyncio import Proxy as SocksProxy

    proxy = way.proxy
    assert proxy is not None
    kind = ProxyType.SOCKS5 if proxy.scheme == "socks5" else ProxyType.SOCKS4
    relay = SocksProxy(kind, *address[1], proxy.user, proxy.password, rdns=True)
    try:
        return await relay.connect(way.origin.name, way.origin.port)
    except ProxyError as error:
        # without a number it is about the user and the password, or no SOCKS at all
        is_lasting = error.error_code is None
        raise NoConnection(f"{proxy.place} refuses: {message_line(str(error))}", is_lasting=is_lasting) from None
    except OSError as error:
        raise NoConnection(f"{proxy.place}: {words(error)}") from None


def words(error: OSError | UnicodeError) -> str:
    """What the system says, in one line without a number or an address."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return message_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
