"""The wire for https and for proxies: pyreqwest (Rust's reqwest), called natively, HTTP/1.1 only.

Its exception types do not tell whether a request was sent (a reset after sending is a ConnectError); the chain of
causes does. hyper resends by itself only a request of which it has provably written nothing (its pooled connection
was closed before the first byte), so one call stays at most one POST. HTTP/2 would resend more, and is off.

A client does not survive a fork (it hangs): start processes with spawn. Nothing here may take the repr of a
request, which shows its headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Literal

# Without this module imported beforehand, running out of file descriptors aborts the whole process.
from pyreqwest import exceptions
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.http import HeaderMap, Url
from pyreqwest.response import Response as WireResponse

from crun_batch.errors import InputError
from crun_batch.gateway.http.wire import (
    IDLE_SECONDS,
    USER_AGENT,
    Intake,
    WireSettings,
    checked_headers,
    checked_url,
    is_loopback,
    one_line,
    unusable_url,
)
from crun_batch.records import Fault, Response

FIRST_READ_BYTES = 4 * 2**10
LARGEST_READ_BYTES = 64 * 2**10

_CONNECTING = "client error (Connect)"
_CUT_SHORT = "end of file before message length reached"
_BROKEN = ("Invalid", "invalid", "unexpected end of file", "corrupt")
"""How the causes begin that blame the reply, not the connection, when they come up within a body."""


class PyreqwestWire:
    """See `wire.Wire`. Holds two connection pools: one for this machine, one for all others (proxies allowed)."""

    def __init__(self, settings: WireSettings) -> None:
        """Build both clients. Raises InputError where the system has no certificates to trust."""
        self._settings = settings
        self._here = _build(_client_builder(settings).no_proxy())
        self._elsewhere = _build(_client_builder(settings))
        self._routes: dict[str, tuple[Client, Url]] = {}
        self._small_bytes = min(settings.max_body_bytes, settings.budget.share_bytes)
        self._header_maps: dict[int, tuple[Mapping[str, str], HeaderMap]] = {}
        """By the identity of the headers, which therefore are kept."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Response | Fault:
        """See `wire.Wire.post`."""
        client, parsed_url = self._routes.get(url) or self._route(url)
        _, header_map = self._header_maps.get(id(headers)) or self._header_map(headers)
        # A read buffer of 1 byte: the reply is handed over with its first bytes, so a body that is cut off later
        # leaves its status and its beginning as evidence.
        request = (
            client.post(parsed_url)
            .headers(header_map)
            .body_bytes(body)
            .timeout(_timeout(deadline_seconds))
            .streamed_read_buffer_limit(1)
            .build_streamed()
        )
        try:
            async with request as response:
                said = response.get_header("content-length")
                length = int(said) if said and said.isascii() and said.isdigit() else None
                reader = response.body_reader
                try:
                    chunk = await reader.read_chunk() if length != 0 else None
                except exceptions.DetailedPyreqwestError as error:
                    fault = _fault(error, deadline_seconds)
                    return Intake(self._settings).fault(fault.kind, fault.message, response.status)
                first = chunk.to_bytes() if chunk is not None else None
                if first is not None and len(first) == length and length <= self._small_bytes:
                    return Response(response.status, response.headers, first)
                return await self._read(response, first, length, deadline_seconds)
        except exceptions.DetailedPyreqwestError as error:
            return _fault(error, deadline_seconds)

    async def _read(
        self, response: WireResponse, first: bytes | None, length: int | None, deadline_seconds: float
    ) -> Response | Fault:
        """Read the rest of a body under the cap: to its announced end, or to the end of the stream."""
        intake = Intake(self._settings)
        status = response.status
        try:
            refusal = await _take(response, intake, first, length)
        except exceptions.DetailedPyreqwestError as error:
            fault = _fault(error, deadline_seconds)
            return intake.fault(fault.kind, fault.message, status)
        finally:
            intake.close()
        if refusal is not None:
            return intake.fault("bad_reply", refusal, status)
        return Response(status, response.headers, intake.body())

    async def close(self) -> None:
        """See `wire.Wire.close`."""
        await self._here.close()
        await self._elsewhere.close()

    def _header_map(self, headers: Mapping[str, str]) -> tuple[Mapping[str, str], HeaderMap]:
        header_map = HeaderMap()
        for name, value in checked_headers(headers).items():
            header_map.append(name, value, is_sensitive=True)  # so that no repr shows it
        return self._header_maps.setdefault(id(headers), (headers, header_map))

    def _route(self, url: str) -> tuple[Client, Url]:
        parts = checked_url(url)
        client = self._here if is_loopback(parts.hostname or "") else self._elsewhere
        try:
            self._routes[url] = client, Url(url)
        except ValueError:
            raise unusable_url() from None
        return self._routes[url]


async def _take(response: WireResponse, intake: Intake, first: bytes | None, length: int | None) -> str | None:
    """Fill the intake; the text returned says why the reply had to end early.

    With a known length it reads chunk by chunk, without a further call for the end; without one (streams, gzip)
    in growing blocks that the library gathers, which spares a wake-up per chunk.
    """
    reader = response.body_reader
    data = first
    while data is not None:
        refusal = intake.add(data)
        if refusal is not None:
            return refusal
        size_bytes = intake.size_bytes
        if length is None:
            chunk = await reader.read(min(max(FIRST_READ_BYTES, size_bytes), LARGEST_READ_BYTES))
        elif size_bytes >= length:
            return None
        else:
            chunk = await reader.read_chunk()
        data = chunk.to_bytes() if chunk is not None else None
    return None


def _client_builder(settings: WireSettings) -> ClientBuilder:
    return (
        ClientBuilder()
        .user_agent(USER_AGENT)
        .http1_only()
        .follow_redirects(False)
        .referer(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .gzip(True)
        .connect_timeout(timedelta(seconds=settings.connect_timeout_seconds))
        .pool_idle_timeout(timedelta(seconds=IDLE_SECONDS))
        .tcp_keepalive(timedelta(seconds=30))
    )


def _build(builder: ClientBuilder) -> Client:
    try:
        return builder.build()
    except exceptions.BuilderError as error:
        raise InputError(
            f"the network client cannot start: {_last_cause(error)}",
            advice="Install the system's CA certificates (package ca-certificates), or set SSL_CERT_FILE.",
        ) from None


@lru_cache(maxsize=64)
def _timeout(deadline_seconds: float) -> timedelta:
    return timedelta(seconds=deadline_seconds)


def _causes(error: exceptions.DetailedPyreqwestError) -> list[str]:
    return [cause["message"] for cause in error.details.get("causes") or ()]


def _last_cause(error: exceptions.DetailedPyreqwestError) -> str:
    """The innermost cause: the only one that names no URL."""
    causes = _causes(error)
    return one_line(causes[-1] if causes else error.message)


def _fault(error: exceptions.DetailedPyreqwestError, deadline_seconds: float) -> Fault:
    """Stage and kind of a library error, by its causes."""
    cause = _last_cause(error)
    never_left = isinstance(error, exceptions.PoolTimeoutError | exceptions.BuilderError)
    if never_left or _CONNECTING in _causes(error):
        timed_out = isinstance(error, exceptions.RequestTimeoutError)
        return Fault("not_sent", "timeout" if timed_out else "connection", f"no connection: {cause}")
    if isinstance(error, exceptions.RequestTimeoutError):
        return Fault("unknown", "timeout", f"no whole reply within {deadline_seconds:g} s")
    kind: Literal["connection", "bad_reply"] = "connection"
    if cause.startswith(_BROKEN) or (isinstance(error, exceptions.DecodeError) and cause != _CUT_SHORT):
        kind = "bad_reply"
    return Fault("unknown", kind, cause)
