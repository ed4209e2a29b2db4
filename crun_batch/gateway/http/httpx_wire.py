"""A wire over an httpx transport of the user's: mocks (`httpx.MockTransport`), recorders, their own networks.

No request of ours needs it. It is as strict as the wire: the total deadline is ours, because httpx knows only
timeouts per operation, and so is gunzip, because httpx unpacks a chunk whole, however large it becomes.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Literal

import httpx

from crun_batch.gateway.failures import message_line
from crun_batch.gateway.http.addresses import checked_headers, checked_url, unusable_url
from crun_batch.gateway.http.bodies import Gunzip, Intake, WireSettings
from crun_batch.gateway.http.direct import USER_AGENT
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
    """See `wire.Wire`. `transport` takes the place of the network."""

    def __init__(self, settings: WireSettings, transport: httpx.AsyncBaseTransport) -> None:
        self._settings = settings
        self._client = httpx.AsyncClient(
            headers={"user-agent": USER_AGENT, "accept-encoding": "gzip"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
            timeout=httpx.Timeout(None, connect=settings.connect_timeout_seconds),
        )

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
        checked_url(url)
        try:
            request = self._client.build_request(method, url, headers=checked_headers(headers), content=body)
        except httpx.InvalidURL:
            raise unusable_url() from None
        intake = Intake(self._settings)
        started: list[int] = []
        try:
            async with asyncio.timeout(deadline_seconds):
                return await self._exchange(request, intake, started)
        except TimeoutError:
            fault = Fault("unknown", "timeout", f"no whole reply within {deadline_seconds:g} s")
        except (httpx.TransportError, zlib.error) as error:
            fault = _fault(error)
        finally:
            intake.close()
        return intake.fault(fault.kind, fault.message, started[0]) if started else fault

    async def _exchange(self, request: httpx.Request, intake: Intake, started: list[int]) -> Response | Fault:
        response = await self._client.send(request, stream=True)
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
        await self._client.aclose()


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


def _fault(error: httpx.TransportError | zlib.error) -> Fault:
    if isinstance(error, httpx.LocalProtocolError):
        # Its text may show a header's value.
        return Fault("not_sent", "connection", "the request does not follow HTTP")
    message = message_line(str(error)) or type(error).__name__
    kind: Literal["timeout", "connection", "bad_reply"] = "connection"
    if isinstance(error, httpx.TimeoutException):
        kind = "timeout"
    elif isinstance(error, httpx.RemoteProtocolError | zlib.error) and not message.startswith(_CUT_SHORT):
        kind = "bad_reply"
    if isinstance(error, _NOT_SENT):
        return Fault("not_sent", kind, f"no connection: {message}")
    return Fault("unknown", kind, message)
