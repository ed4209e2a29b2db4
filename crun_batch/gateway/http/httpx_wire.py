"""The second wire: httpx, for its transports and mocks. Slow, and as strict as the first.

Every request has a connection of its own: a connection that is never used twice can be neither stale nor out of
step. The total deadline is ours, because httpx knows only timeouts per operation; so is gunzip, because httpx
unpacks a chunk whole, however large it becomes.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Literal

import httpx

from crun_batch.gateway.http.wire import (
    USER_AGENT,
    Gunzip,
    Intake,
    WireSettings,
    checked_headers,
    checked_url,
    is_loopback,
    one_line,
    unusable_url,
)
from crun_batch.records import Fault, Response

_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
_CUT_SHORT = ("Server disconnected", "peer closed connection", "peer unexpectedly closed")


class HttpxWire:
    """See `wire.Wire`. `transport` replaces the network, say by `httpx.MockTransport` in a user's test."""

    def __init__(self, settings: WireSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._here = _client(settings, transport, trust_env=False)
        self._elsewhere = _client(settings, transport, trust_env=True)

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Response | Fault:
        """See `wire.Wire.post`."""
        return await self._send("POST", url, headers, body, deadline_seconds)

    async def get(self, url: str, headers: Mapping[str, str], deadline_seconds: float) -> Response | Fault:
        """A GET under the same rules; the control calls use it."""
        return await self._send("GET", url, headers, None, deadline_seconds)

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, deadline_seconds: float
    ) -> Response | Fault:
        client = self._here if is_loopback(checked_url(url).hostname or "") else self._elsewhere
        try:
            request = client.build_request(method, url, headers=checked_headers(headers), content=body)
        except httpx.InvalidURL:
            raise unusable_url() from None
        intake = Intake(self._settings)
        started: list[int] = []
        try:
            async with asyncio.timeout(deadline_seconds):
                return await self._exchange(client, request, intake, started)
        except TimeoutError:
            fault = Fault("unknown", "timeout", f"no whole reply within {deadline_seconds:g} s")
        except (httpx.TransportError, zlib.error) as error:
            fault = _fault(error)
        finally:
            intake.close()
        return intake.fault(fault.kind, fault.message, started[0]) if started else fault

    async def _exchange(
        self, client: httpx.AsyncClient, request: httpx.Request, intake: Intake, started: list[int]
    ) -> Response | Fault:
        response = await client.send(request, stream=True)
        started.append(response.status_code)
        try:
            async for chunk in _body_chunks(response):
                refusal = intake.add(chunk)
                if refusal is not None:
                    return intake.fault("bad_reply", refusal, response.status_code)
        finally:
            await response.aclose()
        return Response(response.status_code, dict(response.headers), intake.body())

    async def close(self) -> None:
        """See `wire.Wire.close`."""
        await self._here.aclose()
        await self._elsewhere.aclose()


async def _body_chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    """The decompressed body; in one piece where a user's transport has already read it."""
    if response.is_stream_consumed:
        yield response.content
    elif response.headers.get("content-encoding") == "gzip":
        unpack = Gunzip()
        async for raw in response.aiter_raw():
            for chunk in unpack.chunks(raw):
                yield chunk
        unpack.finish()
    else:
        async for raw in response.aiter_raw():
            yield raw


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """Reading the certificates takes 20 ms: once is enough."""
    return httpx.create_ssl_context()


def _client(
    settings: WireSettings, transport: httpx.AsyncBaseTransport | None, *, trust_env: bool
) -> httpx.AsyncClient:
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(
        headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
        cookies=no_cookies,
        follow_redirects=False,
        http2=False,
        trust_env=trust_env,
        verify=_certificates(),
        transport=transport,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        timeout=httpx.Timeout(None, connect=settings.connect_timeout_seconds),
    )


def _fault(error: httpx.TransportError | zlib.error) -> Fault:
    if isinstance(error, httpx.LocalProtocolError):
        # Its text may show a header's value.
        return Fault("not_sent", "connection", "the request does not follow HTTP")
    message = one_line(str(error)) or type(error).__name__
    kind: Literal["timeout", "connection", "bad_reply"] = "connection"
    if isinstance(error, httpx.TimeoutException):
        kind = "timeout"
    elif isinstance(error, httpx.RemoteProtocolError | zlib.error) and not message.startswith(_CUT_SHORT):
        kind = "bad_reply"
    if isinstance(error, _NOT_SENT):
        return Fault("not_sent", kind, f"no connection: {message}")
    return Fault("unknown", kind, message)
