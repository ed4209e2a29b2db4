"""What an origin speaks that does not answer: plain HTTP where TLS is expected, or TLS where plain HTTP is.

Some servers say so themselves (an alert, a 400), others close the connection or wait for more: without a question
of our own a wrong scheme looks like a network in trouble. Asked only of a place that has not answered yet, on a
connection of its own, with nothing of the job in the question: an `OPTIONS *` (RFC 9110, 9.3.7), or the first
message of a handshake that is not gone on with (RFC 8446, 4.1.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Literal

from crun_batch.gateway.http.addresses import Origin
from crun_batch.gateway.http.connecting import Address

Speech = Literal["http", "tls", "silent", "absent"]
"""`silent`: it takes connections and says nothing that could be known; `absent`: it takes none."""

ASKED_FOR_SECONDS = 0.8
"""Within what a fault may come after its deadline."""
KNOWN_FOR_SECONDS = 5.0
_TLS_RECORDS = (b"\x16\x03", b"\x15\x03")
"""How a handshake and an alert begin."""


class SchemeProbe:
    """What is spoken at one origin: asked once for all that wonder at the same time, and anew after a while."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._asked: asyncio.Task[Speech] | None = None
        self._asked_at = 0.0

    async def speech(self, addresses: list[Address]) -> Speech:
        """What the first of these addresses speaks, as far as one question tells."""
        loop = asyncio.get_running_loop()
        if not addresses:
            return "absent"
        if self._asked is None or loop.time() - self._asked_at > KNOWN_FOR_SECONDS:
            self._asked_at = loop.time()
            self._asked = loop.create_task(_spoken_at(addresses[0], self._question()))
        return await asyncio.shield(self._asked)

    def _question(self) -> bytes:
        """One that is understood only if the other scheme is right."""
        if self._origin.scheme == "http":
            return _hello()
        return f"OPTIONS * HTTP/1.1\r\nhost: {self._origin.authority}\r\nconnection: close\r\n\r\n".encode("ascii")


def _hello() -> bytes:
    """The first message of a TLS handshake; nothing is sent after it, so nobody need be trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    channel = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        channel.do_handshake()
    return outgoing.read()


async def _spoken_at(address: Address, question: bytes) -> Speech:
    family, place = address
    loop = asyncio.get_running_loop()
    speech: Speech = "absent"
    with socket.socket(family, socket.SOCK_STREAM) as asking, contextlib.suppress(OSError):
        asking.setblocking(False)
        async with asyncio.timeout(ASKED_FOR_SECONDS):
            await loop.sock_connect(asking, place)
            speech = "silent"
            await loop.sock_sendall(asking, question)
            speech = _speech_of(await loop.sock_recv(asking, 16))
    return speech


def _speech_of(first_bytes: bytes) -> Speech:
    if first_bytes.startswith(b"HTTP/"):
        return "http"
    return "tls" if first_bytes.startswith(_TLS_RECORDS) else "silent"
