"""The coordinator on a port: POST /exchange with a document, one back; GET /healthz for whoever starts it.

On the loopback anybody on this machine may ask, unless there is a token; further away there must be one. It is
compared in constant time, and comes from the environment alone: a command line is read by all. A page in a browser
reaches nothing here: it may not send a document of this type unasked, and on the loopback only the loopback's own
names are answered.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

import msgspec
from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.scale.coordinator import Coordinator
from crun_batch.scale.exchange import TOKEN_NAME, decode_said
from crun_batch.scale.messages import encode

LONGEST_BYTES = 2**24
ASKER_SECONDS = 10.0
JSON = "application/json"
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
SHORTEST_TOKEN_CHARACTERS = 16


class Listening(Struct, frozen=True):
    """Where a coordinator listens. No repr: the token is in no traceback."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: a free one."""
    token: str | None = None

    def __repr__(self) -> str:
        return f"Listening({self.host!r}, {self.port})"

    def successor(self, address: str) -> str:
        """In words, the coordinator that the workers of the one at `address` wait for once it is gone."""
        at_which = "" if self.port else f" (start it with --port {address.rpartition(':')[2]})"
        return f"a coordinator at {address}{at_which}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class _Asker(BaseHTTPRequestHandler):
    """One worker's connection."""

    protocol_version = "HTTP/1.1"
    timeout = ASKER_SECONDS
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(200, b"ok\n", "text/plain")
        else:
            self._refuse(404, "workers POST to /exchange")

    def do_POST(self) -> None:
        wrong = self._wrong()
        if wrong is not None:
            self._refuse(*wrong)
            return
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            said = decode_said.decode(body)
        except msgspec.MsgspecError as error:
            self._refuse(400, f"this is no worker's word (another version?): {error}")
            return
        try:
            told = self.server.coordinator.exchange(said)
        except Exception as error:  # noqa: BLE001 - the coordinator keeps it, and ends with it
            self._refuse(503, f"nothing can be given any more: {error}")
            return
        self._answer(200, encode(told), JSON)

    def _wrong(self) -> tuple[int, str] | None:
        """Why this is not heard: a status and a sentence."""
        listening, length = self.server.listening, self.headers.get("content-length", "")
        if listening.is_loopback and (self.headers.get("host", "").rpartition(":")[0] not in LOOPBACK_NAMES):
            return 403, "this is not asked by that name"
        if not self._knows_token():
            return 401, f"the token is missing or another one ({TOKEN_NAME})"
        if self.path != "/exchange":
            return 404, "workers POST to /exchange"
        if self.headers.get("content-type") != JSON:
            return 415, f"a worker's word is {JSON}"
        if not (length.isascii() and length.isdecimal() and int(length) <= LONGEST_BYTES):
            return 413, f"a worker's word has a length, of at most {LONGEST_BYTES} bytes"
        return None

    def _knows_token(self) -> bool:
        token = self.server.listening.token
        given = self.headers.get("authorization", "").removeprefix("Bearer ")
        return token is None or hmac.compare_digest(given.encode(), token.encode())

    def _refuse(self, status: int, sentence: str) -> None:
        self.close_connection = True
        self._answer(status, f"{sentence}\n".encode(), "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Standard error is the display's."""


class _Server(ThreadingMixIn, TCPServer):
    """A thread for each worker. One that never asks again is left alone at the end."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    coordinator: Coordinator
    listening: Listening

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A worker that went away."""


def listening_at(host: str, port: int, token: str | None) -> Listening:
    """Where to listen. Raises InputError for a place that others reach, without a token, or with a short one."""
    place = Listening(host, port, token or None)
    if place.token is None and not place.is_loopback:
        raise InputError(
            f"others reach {host}: a coordinator listens there only with a token",
            advice=f"Set {TOKEN_NAME} here and for the workers, to {SHORTEST_TOKEN_CHARACTERS} characters of "
            "chance or more (`openssl rand -hex 32`); or leave --host out, for workers on this machine.",
        )
    if place.token is not None and len(place.token) < SHORTEST_TOKEN_CHARACTERS:
        raise InputError(f"{TOKEN_NAME} has fewer than {SHORTEST_TOKEN_CHARACTERS} characters: it can be guessed")
    return place


@contextmanager
def served(coordinator: Coordinator, listening: Listening) -> Iterator[str]:
    """Answer workers while what is inside goes on; the address. Raises InputError where it cannot be had."""
    try:
        server = _Server((listening.host, listening.port), _Asker)
    except (OSError, OverflowError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is 0 to 65535"
        raise InputError(
            Mistake(f"port {listening.port} of {listening.host} cannot be used: {reason}", key="--port")
        ) from None
    server.coordinator, server.listening = coordinator, listening
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="coordinator", daemon=True)
    thread.start()
    try:
        yield f"http://{listening.host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
