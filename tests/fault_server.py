"""A raw TCP server that misbehaves on command, plain or under TLS: the other side of the wire's fault matrix.

Each behaviour of `BEHAVIOURS` is one coroutine that gets a fresh connection and does one wrong (or merely unusual)
thing with it. `FaultServer` gives every behaviour a listener of its own on 127.0.0.1 and counts, per behaviour,
the connections it accepted and the requests that arrived whole: that count, and nothing the client says, proves
how often a POST was sent. It runs in its own thread, so a client that blocks its loop does not slow the server.
`ProxyServer` stands before it as an HTTP proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
import threading
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import trustme

WHOLE_BODY = b'{"id": "r1", "object": "chat.completion"}'
ZSTD_BODY: bytes = pa.compress(WHOLE_BODY, codec="zstd", asbytes=True)
CHAT_BODY = (
    b'{"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}], '
    b'"usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}}'
)
HOST = "gateway.invalid"
"""The server's name behind a proxy, which knows where it is; nobody else does."""
Way = Literal["http", "https", "tunnel"]
"""How a request gets to the server: plain, under TLS, under TLS through an HTTP proxy."""
GZIP_BOMB_BYTES = 64 * 2**20
"""What the gzip bomb becomes when it is decompressed (64 kB on the wire)."""


class Connection:
    """One accepted connection: reads requests, counts them, writes raw bytes, ends in any way."""

    def __init__(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: FaultServer
    ) -> None:
        self.name, self.reader, self.writer, self.server = name, reader, writer, server

    async def read_request(self) -> bytes:
        """One whole request (head and body); counted once it is whole. Raises IncompleteReadError at the end."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lengths = [
            line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        ]
        body = await self.reader.readexactly(int(lengths[0]) if lengths else 0)
        self.server.posts[self.name] += 1
        self.server.last_request[self.name] = head + body
        return head + body

    async def send(self, raw: bytes) -> None:
        if self.writer.transport.is_closing():  # under TLS, drain does not say so
            raise ConnectionResetError
        self.writer.write(raw)
        await self.writer.drain()
        await asyncio.sleep(0)  # nor does it give the loop time to find out

    def reset(self) -> None:
        """RST instead of FIN."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Connection], Awaitable[None]]
BEHAVIOURS: dict[str, Behaviour] = {}


def behaviour(function: Behaviour) -> Behaviour:
    BEHAVIOURS[function.__name__] = function
    return function


def reply(body: bytes = WHOLE_BODY, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """A reply with a content-length (`length` to lie about it)."""
    lines = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(name: str, raw: bytes, *, then_stall: bool = False, before_seconds: float = 0.0) -> None:
    """Register a behaviour that reads one request, waits, sends these bytes, and closes (or keeps quiet)."""

    async def act(connection: Connection) -> None:
        await connection.read_request()
        await asyncio.sleep(before_seconds)
        await connection.send(raw)
        if then_stall:
            await asyncio.sleep(3600)

    BEHAVIOURS[name] = act


async def stall(_: Connection) -> None:
    await asyncio.sleep(3600)


@behaviour
async def whole(connection: Connection) -> None:
    """A well-behaved keep-alive server."""
    while True:
        await connection.read_request()
        await connection.send(reply())


@behaviour
async def whole_chunked(connection: Connection) -> None:
    while True:
        await connection.read_request()
        await connection.send(CHUNKED_HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(WHOLE_BODY), WHOLE_BODY))


@behaviour
async def reset_at_once(connection: Connection) -> None:
    connection.reset()


@behaviour
async def reset_before_read(connection: Connection) -> None:
    """Some of the request has left the client, and was not read."""
    await connection.reader.read(1)
    connection.reset()


@behaviour
async def reset_after_read(connection: Connection) -> None:
    await connection.read_request()
    connection.reset()


@behaviour
async def reset_second_request(connection: Connection) -> None:
    """Answers the first request of a connection, resets it once the second has arrived."""
    await connection.read_request()
    await connection.send(reply())
    await connection.read_request()
    connection.reset()


@behaviour
async def until_torn(connection: Connection) -> None:
    """A body that only the end ends, and the end is the socket's, not TLS's: anybody could do that."""
    await connection.read_request()
    await connection.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + WHOLE_BODY)
    await asyncio.sleep(0.05)
    sock: socket.socket = connection.writer.get_extra_info("socket")
    sock.shutdown(socket.SHUT_WR)
    await asyncio.sleep(3600)


@behaviour
async def mended_byte_by_byte(connection: Connection) -> None:
    """A head that the parser refuses, and each byte by itself."""
    await connection.read_request()
    raw = reply(
        WHOLE_BODY,
        "200 OK",
        "X-A: one\r\n two",
        f"content-length: {len(WHOLE_BODY)}",
        "Transfer-Encoding: identity",
    )
    for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + raw:
        await connection.send(bytes([byte]))
        await asyncio.sleep(0)
    await asyncio.sleep(3600)


@behaviour
async def late_second_reply(connection: Connection) -> None:
    """Numbers its replies, and says each once more a moment later."""
    number = 0
    while True:
        await connection.read_request()
        number += 1
        body = b'{"number": %d, "connection": %d}' % (number, connection.server.connections[connection.name])
        await connection.send(reply(body))
        await asyncio.sleep(0.01)
        await connection.send(reply(b'{"stale": true}'))


@behaviour
async def reset_in_endless_body(connection: Connection) -> None:
    """A body that only the end of the connection ends, and the connection is torn off."""
    await connection.read_request()
    await connection.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + WHOLE_BODY[:20])
    await asyncio.sleep(0.1)
    connection.reset()


@behaviour
async def close_between_requests(connection: Connection) -> None:
    """Answers as if it kept the connection, then closes it at once."""
    await connection.read_request()
    await connection.send(reply())


@behaviour
async def drip_body(connection: Connection) -> None:
    await connection.read_request()
    await connection.send(reply(b"", length=10_000))
    while True:
        await connection.send(b"x")
        await asyncio.sleep(0.02)


@behaviour
async def drip_headers(connection: Connection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        await connection.send(b"x")
        await asyncio.sleep(0.02)


@behaviour
async def whole_byte_by_byte(connection: Connection) -> None:
    """Head and body, chunked, each byte by itself."""
    await connection.read_request()
    for byte in CHUNKED_HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(WHOLE_BODY), WHOLE_BODY):
        await connection.send(bytes([byte]))
        await asyncio.sleep(0)


@behaviour
async def endless_1xx(connection: Connection) -> None:
    await connection.read_request()
    while True:
        await connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.02)


@behaviour
async def endless_chunks(connection: Connection) -> None:
    await connection.read_request()
    await connection.send(CHUNKED_HEAD)
    chunk = b"10000\r\n" + b"y" * 0x10000 + b"\r\n"
    while True:
        await connection.send(chunk)


@behaviour
async def endless_content_length(connection: Connection) -> None:
    """A gigabyte, announced and sent."""
    await connection.read_request()
    await connection.send(reply(b"", length=2**30))
    for _ in range(2**30 // 0x10000):
        await connection.send(b"z" * 0x10000)


@behaviour
async def endless_headers(connection: Connection) -> None:
    await connection.read_request()
    await connection.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await connection.send(b"X-Padding: " + b"p" * 1000 + b"\r\n")


@behaviour
async def reply_before_read(connection: Connection) -> None:
    """A refusal that does not wait for the body, as proxies send it."""
    await connection.reader.readuntil(b"\r\n\r\n")
    await connection.send(reply(b"{}", "401 Unauthorized", "Connection: close"))


@behaviour
async def never_reads(connection: Connection) -> None:
    """Accepts and does not read: a large request stops in the middle of being sent."""
    connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(3600)


@behaviour
async def sets_cookie(connection: Connection) -> None:
    while True:
        await connection.read_request()
        await connection.send(reply(WHOLE_BODY, "200 OK", "Set-Cookie: session=1; Path=/"))


@behaviour
async def large_body(connection: Connection) -> None:
    """5 MB, honestly announced, in two halves with a pause: those asked for together are under way together."""
    while True:
        await connection.read_request()
        await connection.send(reply(b"", length=5 * 2**20))
        for _ in range(2):
            for _ in range(5 * 2**19 // 0x8000):
                await connection.send(b"w" * 0x8000)
            await asyncio.sleep(0.3)


@behaviour
async def sse_cut(connection: Connection) -> None:
    """A stream of many small chunks that breaks off without its end chunk."""
    await connection.read_request()
    await connection.send(CHUNKED_HEAD)
    for number in range(400):
        event = b'data: {"number": %04d, "padding": "................"}\n\n' % number
        await connection.send(b"%x\r\n%s\r\n" % (len(event), event))


@behaviour
async def chat(connection: Connection) -> None:
    """A gateway: the same answer to each request."""
    while True:
        await connection.read_request()
        await connection.send(reply(CHAT_BODY))


@behaviour
async def answers_once(connection: Connection) -> None:
    """A gateway that answers its first request and then only hangs up."""
    await connection.read_request()
    if connection.server.posts[connection.name] <= 3:
        await connection.send(reply(CHAT_BODY, "200 OK", "Connection: close"))


@behaviour
async def garbage_at_once(connection: Connection) -> None:
    """What a server of plain HTTP says to a TLS handshake."""
    await connection.reader.read(100)
    await connection.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


@behaviour
async def tls_closed(connection: Connection) -> None:
    await connection.reader.read(100)


@behaviour
async def tls_alert(connection: Connection) -> None:
    await connection.reader.read(100)
    await connection.send(b"\x15\x03\x01\x00\x02\x02\x28")


@behaviour
async def tls_garbage(connection: Connection) -> None:
    await connection.reader.read(100)
    await connection.send(b"SSH-2.0-OpenSSH_9.6\r\n" * 20)


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
BEHAVIOURS["tls_stall"] = stall
says("stall_before_headers", b"", then_stall=True)
says("stall_in_headers", b"HTTP/1.1 200 OK\r\nContent-", then_stall=True)
says("stall_in_body", reply(WHOLE_BODY[:20], length=len(WHOLE_BODY)), then_stall=True)
says("close_without_reply", b"")
says("close_in_headers", b"HTTP/1.1 200 OK\r\nContent-")
says("close_in_body", reply(WHOLE_BODY[:20], length=len(WHOLE_BODY)))
says("cut_chunked", CHUNKED_HEAD + b"14\r\n" + WHOLE_BODY[:20] + b"\r\n")
says("cut_in_spaced_chunk", CHUNKED_HEAD.replace(b"chunked", b"chunked ") + b"ff\r\n" + WHOLE_BODY[:20])
says("gzip_spaced", reply(gzip.compress(WHOLE_BODY), "200 OK", "Content-Encoding: gzip "))
says("no_status", b"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\n{}", then_stall=True)
says("cut_in_chunk", CHUNKED_HEAD + b"ff\r\n" + WHOLE_BODY[:20])
says("bad_chunk_size", CHUNKED_HEAD + b"14\r\n" + WHOLE_BODY[:20] + b"\r\nzz\r\n" + WHOLE_BODY)
says("garbage", b"\x00\x01\x02 this is no HTTP at all\r\n\r\n" * 10)
says("two_lengths", reply(WHOLE_BODY, "200 OK", "Content-Length: 7"))
says("bad_length", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + WHOLE_BODY)
says("close_delimited", b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + WHOLE_BODY)
says("until_closed", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + WHOLE_BODY)
says("trailers", CHUNKED_HEAD + b"%x;name=1\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(WHOLE_BODY), WHOLE_BODY))
says(
    "chunked_and_length",
    CHUNKED_HEAD[:-2] + b"Content-Length: 7\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(WHOLE_BODY), WHOLE_BODY),
)
says("bare_line_feeds", b"HTTP/1.1 200 OK\nContent-Length: %d\n\n%s" % (len(WHOLE_BODY), WHOLE_BODY))
says("no_reason", b"HTTP/1.1 200\r\nContent-Length: %d\r\n\r\n%s" % (len(WHOLE_BODY), WHOLE_BODY))
says("no_content", b"HTTP/1.1 204 No Content\r\n\r\n")
says("continue_100", b"HTTP/1.1 100 Continue\r\n\r\n" + reply())
says("early_hints_103", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + reply())
says("continue_100_close", b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n" + reply())
says("same_length_twice", reply(WHOLE_BODY, "200 OK", f"Content-Length: {len(WHOLE_BODY)}"), then_stall=True)
says("same_length_in_one_line", reply().replace(b": 41", b": 41, 41"), then_stall=True)
says("lengths_in_one_line", reply().replace(b": 41", b": 41, 7"), then_stall=True)
says("folded_header", reply(WHOLE_BODY, "200 OK", "X-Policy: one;\r\n two;\r\n\tthree"), then_stall=True)
says("fold_without_header", b"HTTP/1.1 200 OK\r\n X-Policy: one\r\nContent-Length: 2\r\n\r\n{}")
says("identity_and_length", reply(WHOLE_BODY, "200 OK", "Transfer-Encoding: identity"), then_stall=True)
says(
    "identity_chunked",
    CHUNKED_HEAD.replace(b"chunked", b"identity, chunked") + b"29\r\n" + WHOLE_BODY + b"\r\n0\r\n\r\n",
    then_stall=True,
)
says("wide_chunk_size", CHUNKED_HEAD + b"00000000000029\r\n" + WHOLE_BODY + b"\r\n000\r\n\r\n", then_stall=True)
for chunk, size in (
    ("negative_chunk", b"-5"),
    ("huge_chunk", b"f" * 17),
    ("signed_chunk", b"+14"),
    ("prefixed_chunk", b"0x14"),
):
    says(
        chunk, CHUNKED_HEAD + b"14\r\n" + WHOLE_BODY[:20] + b"\r\n" + size + b"\r\n" + WHOLE_BODY, then_stall=True
    )
says("extra_reply", reply() + reply(b'{"id": "somebody else\'s"}'), then_stall=True)
says("garbage_behind", reply() + b"\x00\x01 what is this", then_stall=True)
says("brotli", reply(b"\x0b\x02\x80{}\x03", "200 OK", "Content-Encoding: br"), then_stall=True)
says("zstd", reply(ZSTD_BODY, "200 OK", "Content-Encoding: zstd"), then_stall=True)
says("deflate", reply(zlib.compress(WHOLE_BODY), "200 OK", "Content-Encoding: deflate"), then_stall=True)
says("no_content_with_length", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", then_stall=True)
says("reset_content", b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", then_stall=True)
says("not_modified", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 41\r\n\r\n", then_stall=True)
says("status_600", reply(WHOLE_BODY, "600 Beyond"), then_stall=True)
says("status_999", reply(WHOLE_BODY, "999 Denied"), then_stall=True)
says("status_of_two_digits", reply(WHOLE_BODY, "20 OK"), then_stall=True)
says("status_of_four_digits", reply(WHOLE_BODY, "2000 OK"), then_stall=True)
says("other_protocol", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", then_stall=True)
says("http_2", b"HTTP/2 200 OK\r\nContent-Length: 41\r\n\r\n" + WHOLE_BODY, then_stall=True)
BEHAVIOURS["whole_and_idle"] = whole
says("late_body", reply(b"x" * 100), before_seconds=0.6)
says("late_large_body", reply(b"x" * 3_000_000), before_seconds=0.6)
says(
    "tls_wanted_nginx",
    reply(b"<html><title>400 The plain HTTP request was sent to HTTPS port</title>", "400 Bad Request"),
)
says("tls_wanted_go", reply(b"Client sent an HTTP request to an HTTPS server.\n", "400 Bad Request"))
says("proxy_wants_password", reply(b"", "407 Proxy Authentication Required"))
says("server_error", reply(b"oops", "503 Service Unavailable", "Retry-After: 3"))
says("two_replies", reply() + reply(b'{"id": "somebody else\'s"}'), then_stall=True)
says("gzip_whole", reply(gzip.compress(WHOLE_BODY), "200 OK", "Content-Encoding: gzip"))
says("gzip_of_nothing", reply(b"", "401 Unauthorized", "Content-Encoding: gzip"))
says("gzip_cut", reply(gzip.compress(WHOLE_BODY)[:-12], "200 OK", "Content-Encoding: gzip"))
says("gzip_garbage", reply(WHOLE_BODY, "200 OK", "Content-Encoding: gzip"))
says("gzip_bomb", reply(gzip.compress(bytes(GZIP_BOMB_BYTES), 9), "200 OK", "Content-Encoding: gzip"))
for code, phrase in ((301, "Moved"), (302, "Found"), (303, "See Other"), (307, "Temporary"), (308, "Permanent")):
    says(f"redirect_{code}", reply(b"{}", f"{code} {phrase}", "Location: /elsewhere"))


class FaultServer:
    """`with FaultServer() as server: server.url("drip_body", "https")`; everything ends with the block."""

    def __init__(self) -> None:
        self.posts: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.last_request: dict[str, bytes] = {}
        self.fixed_urls: dict[str, str] = {}
        """URLs of places that are no listener of ours, by name."""
        self.reused_sessions = 0
        self._authority = trustme.CA()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert("127.0.0.1", "localhost", HOST).configure_cert(self._context)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._ports: dict[tuple[str, bool], int] = {}
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> FaultServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def write_ca(self, path: Path) -> Path:
        """The certificate to trust, as a PEM file."""
        self._authority.cert_pem.write_to_path(str(path))
        return path

    def url(self, name: str, way: Way = "http") -> str:
        """The URL whose server behaves as `name` says; those named tls_ break TLS, so they do not speak it."""
        if name in self.fixed_urls:
            url = self.fixed_urls[name]
            url = url if way == "http" else url.replace("http://", "https://")
            return url.replace("127.0.0.1", HOST) if way == "tunnel" else url
        key = name, way != "http" and not name.startswith("tls_")
        if key not in self._ports:
            self._ports[key] = asyncio.run_coroutine_threadsafe(self._listen(*key), self._loop).result(10)
        scheme, host = ("http" if way == "http" else "https"), (HOST if way == "tunnel" else "127.0.0.1")
        return f"{scheme}://{host}:{self._ports[key]}/v1/{name}"

    async def _listen(self, name: str, under_tls: bool) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections[name] += 1
            sealed = writer.get_extra_info("ssl_object")
            self.reused_sessions += bool(sealed is not None and sealed.session_reused)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await BEHAVIOURS[name](Connection(name, reader, writer, self))
            self.ended[name] += 1
            writer.close()

        context = self._context if under_tls else None
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000, ssl=context)
        self._servers.append(server)
        port: Any = server.sockets[0].getsockname()[1]
        return int(port)

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class ProxyServer:
    """An HTTP proxy on loopback: tunnels (CONNECT) to the fault server, and nothing else; a thread of its own.

    `password`: who does not send `user:password` is answered 407. `answer`: what every CONNECT gets instead.
    `tls`: it is itself spoken to under TLS, with that server's certificate.
    """

    def __init__(self, password: str | None = None, answer: bytes | None = None, tls: FaultServer | None = None):
        self.asked: list[bytes] = []
        self._password, self._answer = password, answer
        self._context = tls._context if tls is not None else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> ProxyServer:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head)
            await self._tunnel(head, reader, writer)
        writer.transport.abort()

    async def _tunnel(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = head.split(b" ")[1].rpartition(b":")
        wanted = b64encode(b"user:" + (self._password or "").encode())
        if self._answer is not None:
            writer.write(self._answer)
            await writer.drain()
            return
        if self._password is not None and b"basic " + wanted.lower() not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return
        try:
            if host != HOST.encode():
                raise OSError("unknown host")
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", int(port))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        there = asyncio.create_task(self._relay(reader, upstream_writer))
        try:
            await self._relay(upstream_reader, writer)
        finally:
            there.cancel()
            upstream_writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def _end(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def refusing_url() -> Iterator[str]:
    """A port that is taken (so that nobody else gets it) and does not listen: connections are refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"


@contextlib.contextmanager
def unanswered_url() -> Iterator[str]:
    """A listener whose backlog is full: a further connection attempt gets no answer (Linux)."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
