"""The wire's promises: a whole reply or a fault with its true stage, one POST per call, nothing exhausted."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import resource
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import uvloop
from fault_server import WHOLE_BODY, ZSTD_BODY, FaultServer, ProxyServer, Way, refusing_url, unanswered_url
from hypothesis import given, settings
from hypothesis import strategies as st
from run_kit import wait_until

from crun_batch.errors import InputError
from crun_batch.gateway.failures import LONGEST_MESSAGE, message_line
from crun_batch.gateway.http.addresses import checked_headers, checked_url, is_loopback
from crun_batch.gateway.http.bodies import EVIDENCE_BYTES, ByteBudget, Gunzip, Intake, WireSettings
from crun_batch.gateway.http.descriptors import ensure_file_descriptors
from crun_batch.gateway.http.exchange import HeaderNames
from crun_batch.gateway.http.httpx_wire import HttpxWire
from crun_batch.gateway.http.wire import Wire, open_wire
from crun_batch.records import Fault, Response

DEADLINE_SECONDS = 5.0
SHORT_DEADLINE_SECONDS = 1.0
SHORT_CONNECT_TIMEOUT_SECONDS = 0.15
"""Of the calls that end by these two; all others may take their time on a busy machine."""
MAX_BODY_BYTES = 4 * 2**20
KEY = "ak_0123456789abcdefMARKED9876543210"
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
REQUEST = b'{"model": "m", "messages": []}'
WAYS: tuple[Way, ...] = ("http", "https", "tunnel")


class Fate(NamedTuple):
    """What a call against a behaviour must end as: a status, or a fault's stage and kind; POSTs that arrived."""

    what_happens: str
    stage: str
    kind: str
    posts: int
    status: int | None = None
    body: bytes = b""


FAULTS = {
    "refused": Fate("connection refused", "not_sent", "connection", 0),
    "unanswered": Fate("no answer to the connection attempt", "not_sent", "timeout", 0),
    "no_such_host": Fate("host name does not resolve", "not_sent", "connection", 0),
    "tls_closed": Fate("closed during the TLS handshake", "not_sent", "connection", 0),
    "tls_alert": Fate("TLS handshake refused", "not_sent", "connection", 0),
    "tls_garbage": Fate("no TLS on that port", "not_sent", "connection", 0),
    "tls_stall": Fate("stall during the TLS handshake", "not_sent", "timeout", 0),
    "reset_before_read": Fate("reset before the request was read", "unknown", "connection", 0),
    "reset_after_read": Fate("reset after the request was read", "unknown", "connection", 1),
    "close_without_reply": Fate("closed without a reply", "unknown", "connection", 1),
    "close_in_headers": Fate("closed within the headers", "unknown", "connection", 1),
    "close_in_body": Fate(
        "closed within a body of known length", "unknown", "connection", 1, 200, WHOLE_BODY[:20]
    ),
    "cut_chunked": Fate("chunked body without its end chunk", "unknown", "connection", 1, 200, WHOLE_BODY[:20]),
    "cut_in_spaced_chunk": Fate("the same, its coding written with a space", "unknown", "connection", 1, 200),
    "reset_in_endless_body": Fate("reset within a body that closing would end", "unknown", "connection", 1, 200),
    "no_status": Fate("status 099", "unknown", "bad_reply", 1),
    "cut_in_chunk": Fate("closed within a chunk", "unknown", "connection", 1, 200, WHOLE_BODY[:20]),
    "gzip_cut": Fate("gzip stream cut short", "unknown", "bad_reply", 1, 200),
    "gzip_garbage": Fate("announced as gzip, but is not", "unknown", "bad_reply", 1),
    "bad_chunk_size": Fate("invalid chunk size", "unknown", "bad_reply", 1, 200, WHOLE_BODY[:20]),
    "garbage": Fate("no HTTP at all", "unknown", "bad_reply", 1),
    "two_lengths": Fate("two different content-lengths", "unknown", "bad_reply", 1, 200, WHOLE_BODY),
    "chunked_and_length": Fate("chunked, and a content-length", "unknown", "bad_reply", 1, 200, b"29\r\n"),
    "bad_length": Fate("negative content-length", "unknown", "bad_reply", 1),
    "endless_headers": Fate("headers without end", "unknown", "bad_reply", 1),
    "endless_chunks": Fate("chunked body over the cap", "unknown", "bad_reply", 1, 200, b"y" * EVIDENCE_BYTES),
    "endless_content_length": Fate(
        "announced 1 GB, over the cap", "unknown", "bad_reply", 1, 200, b"z" * EVIDENCE_BYTES
    ),
    "gzip_bomb": Fate("decompresses to more than the cap", "unknown", "bad_reply", 1, 200, bytes(EVIDENCE_BYTES)),
    "never_reads": Fate("stall while the request is sent", "unknown", "timeout", 0),
    "stall_before_headers": Fate("stall before the reply", "unknown", "timeout", 1),
    "stall_in_headers": Fate("stall within the headers", "unknown", "timeout", 1),
    "stall_in_body": Fate("stall within the body", "unknown", "timeout", 1, 200, WHOLE_BODY[:20]),
    "drip_headers": Fate("headers byte by byte", "unknown", "timeout", 1),
    "drip_body": Fate("body byte by byte", "unknown", "timeout", 1, 200),
    "until_torn": Fate("no end of TLS in a body that closing would end", "unknown", "connection", 1),
    "lengths_in_one_line": Fate("two different content-lengths in one line", "unknown", "bad_reply", 1, 200),
    "negative_chunk": Fate("negative chunk size", "unknown", "bad_reply", 1, 200, WHOLE_BODY[:20]),
    "huge_chunk": Fate("chunk size beyond 64 bits", "unknown", "bad_reply", 1, 200, WHOLE_BODY[:20]),
    "signed_chunk": Fate("chunk size with a sign", "unknown", "bad_reply", 1, 200, WHOLE_BODY[:20]),
    "prefixed_chunk": Fate("chunk size written 0x14", "unknown", "bad_reply", 1, 200, WHOLE_BODY[:20]),
    "status_of_two_digits": Fate("status of two digits", "unknown", "bad_reply", 1),
    "status_of_four_digits": Fate("status of four digits", "unknown", "bad_reply", 1),
    "other_protocol": Fate("101, to another protocol", "unknown", "bad_reply", 1),
    "http_2": Fate("HTTP/2 on the status line", "unknown", "bad_reply", 1),
    "fold_without_header": Fate("a folded line before any header", "unknown", "bad_reply", 1),
    "endless_1xx": Fate("1xx replies without end", "unknown", "timeout", 1),
}
REPLIES = {
    "whole": Fate("content-length", "", "", 1, 200, WHOLE_BODY),
    "whole_chunked": Fate("chunked", "", "", 1, 200, WHOLE_BODY),
    "gzip_whole": Fate("gzip", "", "", 1, 200, WHOLE_BODY),
    "close_delimited": Fate("HTTP/1.0, ended by closing", "", "", 1, 200, WHOLE_BODY),
    "until_closed": Fate("HTTP/1.1 without a length, ended by closing", "", "", 1, 200, WHOLE_BODY),
    "trailers": Fate("chunk extensions and trailers", "", "", 1, 200, WHOLE_BODY),
    "bare_line_feeds": Fate("lines ended by LF alone", "", "", 1, 200, WHOLE_BODY),
    "gzip_spaced": Fate("gzip, written with a space", "", "", 1, 200, WHOLE_BODY),
    "gzip_of_nothing": Fate("announced as gzip, and empty", "", "", 1, 401, b""),
    "no_reason": Fate("status line without a reason", "", "", 1, 200, WHOLE_BODY),
    "whole_byte_by_byte": Fate("byte by byte", "", "", 1, 200, WHOLE_BODY),
    "continue_100": Fate("100 Continue first", "", "", 1, 200, WHOLE_BODY),
    "early_hints_103": Fate("103 Early Hints first", "", "", 1, 200, WHOLE_BODY),
    "continue_100_close": Fate("100 Continue first, with `Connection: close`", "", "", 1, 200, WHOLE_BODY),
    "same_length_twice": Fate("the same content-length twice", "", "", 1, 200, WHOLE_BODY),
    "same_length_in_one_line": Fate("the same content-length twice in one line", "", "", 1, 200, WHOLE_BODY),
    "folded_header": Fate("a header folded over lines", "", "", 1, 200, WHOLE_BODY),
    "identity_and_length": Fate("transfer-encoding identity, and a content-length", "", "", 1, 200, WHOLE_BODY),
    "identity_chunked": Fate("transfer-encoding identity, chunked", "", "", 1, 200, WHOLE_BODY),
    "mended_byte_by_byte": Fate("all of these, byte by byte", "", "", 1, 200, WHOLE_BODY),
    "wide_chunk_size": Fate("chunk size with zeros before it", "", "", 1, 200, WHOLE_BODY),
    "extra_reply": Fate("a second reply behind it", "", "", 1, 200, WHOLE_BODY),
    "garbage_behind": Fate("garbage behind it", "", "", 1, 200, WHOLE_BODY),
    "brotli": Fate("in an encoding that was not asked for", "", "", 1, 200, b"\x0b\x02\x80{}\x03"),
    "zstd": Fate("in zstd, which was not asked for", "", "", 1, 200, ZSTD_BODY),
    "deflate": Fate("in deflate, which was not asked for", "", "", 1, 200, zlib.compress(WHOLE_BODY)),
    "no_content": Fate("204", "", "", 1, 204, b""),
    "no_content_with_length": Fate("204 with a content-length", "", "", 1, 204, b""),
    "reset_content": Fate("205", "", "", 1, 205, b""),
    "not_modified": Fate("304 with a content-length", "", "", 1, 304, b""),
    "status_600": Fate("600", "", "", 1, 600, WHOLE_BODY),
    "status_999": Fate("999", "", "", 1, 999, WHOLE_BODY),
    "server_error": Fate("503", "", "", 1, 503, b"oops"),
    "reply_before_read": Fate("refusal that does not wait for the body", "", "", 0, 401, b"{}"),
    "redirect_301": Fate("301, not followed", "", "", 1, 301, b"{}"),
    "redirect_302": Fate("302, not followed", "", "", 1, 302, b"{}"),
    "redirect_303": Fate("303, not followed", "", "", 1, 303, b"{}"),
    "redirect_307": Fate("307, not followed", "", "", 1, 307, b"{}"),
    "redirect_308": Fate("308, not followed", "", "", 1, 308, b"{}"),
}


NEEDS_TLS = ("tls_closed", "tls_alert", "tls_garbage", "tls_stall", "until_torn")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    """The fault server, trusted, and asked without any proxy of this machine's environment."""
    with (
        FaultServer() as running,
        refusing_url() as refusing,
        unanswered_url() as unanswered,
        pytest.MonkeyPatch.context() as environment,
    ):
        running.fixed_urls.update(
            refused=refusing, unanswered=unanswered, no_such_host=f"http://{'x' * 70}.invalid/v1"
        )
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            environment.delenv(name)
        environment.delenv("SSL_CERT_DIR", raising=False)
        environment.setenv("SSL_CERT_FILE", str(running.write_ca(tmp_path_factory.mktemp("ca") / "ca.pem")))
        yield running


@pytest.fixture(scope="module")
def proxy() -> Iterator[ProxyServer]:
    with ProxyServer() as running:
        yield running


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch) -> Way:
    """How the server is reached: each law holds for each."""
    found: Way = request.param
    if found == "tunnel":
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    return found


def open_small_wire(**changes: Any) -> Wire:
    values = {
        "connections": 8,
        "max_body_bytes": MAX_BODY_BYTES,
        "connect_timeout_seconds": DEADLINE_SECONDS,
    }
    return open_wire(**(values | changes))


def with_wire(wire: Wire, act: Callable[[Wire], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        try:
            return await act(wire)
        finally:
            await wire.close()

    return asyncio.run(main())


def post(url: str, body: bytes = REQUEST, **changes: Any) -> Response | Fault:
    deadline_seconds = changes.pop("deadline_seconds", DEADLINE_SECONDS)
    wire = open_small_wire(**changes)
    return with_wire(wire, lambda wire: wire.post(url, HEADERS, body, deadline_seconds))


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_its_stage_and_ends_in_time(way: Way, name: str, server: FaultServer) -> None:
    """A fault is a value with a true stage; it comes within the deadline + 1 s and cost at most one POST."""
    if way == "http" and name in NEEDS_TLS:
        pytest.skip("plain HTTP has no handshake and no end of its own")
    fate, url = FAULTS[name], server.url(name, way)
    posts_before, started = server.posts[name], time.monotonic()
    deadline_seconds = SHORT_DEADLINE_SECONDS if fate.kind == "timeout" else DEADLINE_SECONDS
    body = b"x" * 2**23 if name == "never_reads" else REQUEST
    connecting_ends_it = (fate.stage, fate.kind) == ("not_sent", "timeout")
    fault = post(
        url,
        body,
        deadline_seconds=DEADLINE_SECONDS if connecting_ends_it else deadline_seconds,
        connect_timeout_seconds=SHORT_CONNECT_TIMEOUT_SECONDS if connecting_ends_it else DEADLINE_SECONDS,
    )
    assert isinstance(fault, Fault)
    assert (fate.stage, fate.kind) == (fault.stage, fault.kind), fault.message
    assert fate.posts == server.posts[name] - posts_before
    assert time.monotonic() - started < deadline_seconds + 1
    if fate.status is not None:
        assert fate.status == fault.status
    assert fault.body.startswith(fate.body)
    assert 0 < len(fault.message) <= 250
    assert "\n" not in fault.message
    assert KEY not in repr(fault)


@pytest.mark.parametrize("name", REPLIES)
def test_every_whole_reply_is_a_response(way: Way, name: str, server: FaultServer) -> None:
    """Whatever its status: a whole reply is a Response, redirects included, and cost one POST."""
    fate, posts_before = REPLIES[name], server.posts[name]
    response = post(server.url(name, way))
    assert isinstance(response, Response), response
    assert (fate.status, fate.body) == (response.status, response.body)
    assert type(response.body) is bytes
    assert fate.posts == server.posts[name] - posts_before


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=20))
def test_names_that_a_server_invents_fill_no_memory(invented: list[bytes]) -> None:
    """However many there are, and however long: what is kept of them is less than 64 KiB."""
    names = HeaderNames()
    for number in range(2_000):
        assert names[b"X-%d" % number] == f"x-{number}"
    for raw in [*invented, b"X-" + bytes(2**18)]:
        assert names[raw] == raw.decode("latin-1").lower()
    assert sum(map(len, names)) <= 2**16
    short = HeaderNames()
    assert short[b"X" * 2**18] == "x" * 2**18
    assert not short


@pytest.mark.parametrize("name", ["whole", "refused", "tls_alert", "close_in_body", "stall_in_body", "gzip_bomb"])
def test_the_wires_run_under_uvloop_too(way: Way, name: str, server: FaultServer) -> None:
    """The other event loop gives the same fates."""
    if way == "http" and name in NEEDS_TLS:
        pytest.skip("plain HTTP has no handshake")
    fate, url = (FAULTS | REPLIES)[name], server.url(name, way)

    async def main() -> Response | Fault:
        wire = open_small_wire()
        deadline_seconds = SHORT_DEADLINE_SECONDS if fate.kind == "timeout" else DEADLINE_SECONDS
        result = await wire.post(url, HEADERS, REQUEST, deadline_seconds)
        await wire.close()
        return result

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(main())
    if isinstance(result, Fault):
        assert (fate.stage, fate.kind) == (result.stage, result.kind)
    else:
        assert ("", fate.status) == (fate.stage, result.status)


def test_header_names_of_replies_are_lower_case(way: Way, server: FaultServer) -> None:
    """Headers are a mapping with lower-case names, readable after the wire is closed."""
    response = post(server.url("server_error", way))
    assert "3" == response.headers["retry-after"]
    assert response.headers.get("x-not-there") is None
    assert {"content-type", "content-length", "retry-after"} == set(dict(response.headers))


def test_the_request_arrives_as_given(way: Way, server: FaultServer) -> None:
    """Body byte for byte, our headers, no cookie of an earlier reply."""
    wire = open_small_wire()

    async def twice(wire: Wire) -> None:
        for _ in range(2):
            await wire.post(server.url("sets_cookie", way), HEADERS, REQUEST, DEADLINE_SECONDS)

    with_wire(wire, twice)
    head, body = server.last_request["sets_cookie"].split(b"\r\n\r\n", 1)
    lines = head.decode().lower().split("\r\n")
    assert REQUEST == body
    assert f"authorization: bearer {KEY.lower()}" in lines
    assert "content-type: application/json" in lines
    assert "post /v1/sets_cookie http/1.1" == lines[0]
    assert not [line for line in lines if line.startswith("cookie")]


@pytest.mark.parametrize("name", ["whole", "close_between_requests", "reset_second_request", "two_replies"])
def test_one_call_is_at_most_one_post(way: Way, name: str, server: FaultServer) -> None:
    """Over connections that go stale between requests nothing is resent and no reply meets another request.

    POSTs that arrived: at least one per reply and at most one per call. What did arrive is never `not_sent`.
    """
    posts_before = server.posts[name]

    async def many(wire: Wire) -> list[Response | Fault]:
        results = []
        for number in range(30):
            results.append(await wire.post(server.url(name, way), HEADERS, REQUEST, DEADLINE_SECONDS))
            await asyncio.sleep(0.001 * (number % 3))
        return results

    results = with_wire(open_small_wire(), many)
    replies = [result for result in results if isinstance(result, Response)]
    unknown = [result for result in results if isinstance(result, Fault) and result.stage == "unknown"]
    assert 30 == len(replies) + len(unknown)
    assert len(replies) <= server.posts[name] - posts_before <= 30
    assert {WHOLE_BODY} == {reply.body for reply in replies}


@pytest.mark.parametrize("name", ["whole", "whole_chunked"])
def test_the_fast_wires_keep_connections(way: Way, name: str, server: FaultServer) -> None:
    """Calls one after another share connections: not reading past an announced length does not end one.

    Not always a single one: a connection is back in the pool a moment after its reply was read.
    """
    connections_before = server.connections[name]

    async def many(wire: Wire) -> None:
        for _ in range(50):
            await wire.post(server.url(name, way), HEADERS, REQUEST, DEADLINE_SECONDS)

    with_wire(open_small_wire(), many)
    assert server.connections[name] - connections_before < 10


def test_what_came_unasked_answers_no_request(way: Way, server: FaultServer) -> None:
    """A second reply that came while this process was busy lies there unread: it is nobody's."""

    async def act(wire: Wire) -> list[bytes]:
        bodies = []
        for _ in range(6):
            result = await wire.post(server.url("late_second_reply", way), HEADERS, REQUEST, DEADLINE_SECONDS)
            bodies.append(result.body)
            time.sleep(0.04)  # noqa: ASYNC251 - the loop is busy
        return bodies

    bodies = with_wire(open_small_wire(), act)
    assert b'{"stale": true}' not in bodies
    assert 6 == len(set(bodies))


def test_nothing_is_sent_once_the_wire_is_closed(way: Way, server: FaultServer) -> None:
    """A call that is still connecting then ends as never sent."""
    posts_before = server.posts["whole"]

    async def act(wire: Wire) -> Response | Fault:
        call = asyncio.ensure_future(wire.post(server.url("whole", way), HEADERS, REQUEST, DEADLINE_SECONDS))
        await asyncio.sleep(0)
        await wire.close()
        return await call

    result = with_wire(open_small_wire(), act)
    assert isinstance(result, Fault)
    assert "not_sent" == result.stage
    assert posts_before == server.posts["whole"]


def test_idle_connections_are_closed(way: Way, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take up files here and places at the server."""
    monkeypatch.setattr("crun_batch.gateway.http.site.IDLE_SECONDS", 0.1)
    opened, ended = server.connections["whole_and_idle"], server.ended["whole_and_idle"]

    async def act(wire: Wire) -> None:
        url = server.url("whole_and_idle", way)
        await asyncio.gather(*(wire.post(url, HEADERS, REQUEST, DEADLINE_SECONDS) for _ in range(8)))
        for _ in range(100):
            await asyncio.sleep(0.05)
            if server.ended["whole_and_idle"] - ended == server.connections["whole_and_idle"] - opened:
                break

    with_wire(open_small_wire(), act)
    assert 8 == server.ended["whole_and_idle"] - ended == server.connections["whole_and_idle"] - opened


def test_two_hosts_share_the_connections_that_may_be_open(
    way: Way, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those idle at the one make room for the other, as many as it needs: fewer where one serves twice."""
    monkeypatch.setattr("crun_batch.gateway.http.site.IDLE_SECONDS", 600.0)  # ends none, however long it takes

    async def act(wire: Wire) -> None:
        for name in hosts:
            calls = [wire.post(server.url(name, way), HEADERS, REQUEST, DEADLINE_SECONDS) for _ in range(8)]
            assert [200] * 8 == [reply.status for reply in await asyncio.gather(*calls)]

    hosts = ("whole", "sets_cookie")
    wait_until(lambda: all(server.connections[name] == server.ended[name] for name in hosts))  # of earlier tests
    opened = {name: (server.connections[name], server.ended[name]) for name in hosts}

    def still_open() -> dict[str, int]:
        return {
            name: server.connections[name] - before - (server.ended[name] - gone)
            for name, (before, gone) in opened.items()
        }

    async def looked_at(wire: Wire) -> dict[str, int]:
        await act(wire)
        for _ in range(100):  # the server may see an end a little later
            await asyncio.sleep(0.05)
            if sum(still_open().values()) <= 8:
                break
        return still_open()

    left = with_wire(open_small_wire(), looked_at)
    asked = server.connections["sets_cookie"] - opened["sets_cookie"][0]
    assert 1 <= asked == left["sets_cookie"] and left["whole"] <= 8 - asked


def test_a_server_that_closes_without_notice_is_soon_asked_over_new_connections(
    way: Way, server: FaultServer
) -> None:
    """It costs at most the requests that were in flight when that came out, and not one in three."""
    in_flight = 16

    async def many(wire: Wire) -> list[Response | Fault]:
        async def work() -> list[Response | Fault]:
            url = server.url("close_between_requests", way)
            return [await wire.post(url, HEADERS, REQUEST, DEADLINE_SECONDS) for _ in range(40)]

        return [
            result for results in await asyncio.gather(*(work() for _ in range(in_flight))) for result in results
        ]

    results = with_wire(open_small_wire(connections=in_flight), many)
    assert in_flight * 40 == len(results)
    assert sum(isinstance(result, Fault) for result in results) <= in_flight


def test_a_host_with_a_dead_address_is_reached_at_the_next(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One address after the other; the one that failed is not tried first again."""
    live = int(httpx.URL(server.url("whole")).port or 0)
    with refusing_url() as refusing:
        dead = int(httpx.URL(refusing).port or 0)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (dead, live)]
        looked_up: list[str] = []

        async def look_up(_: object, host: str, port: int, **__: object) -> list[Any]:
            looked_up.append(host)
            return found

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", look_up)

        async def act(wire: Wire) -> list[Response | Fault]:
            url = f"http://many.invalid:{live}/v1"
            return await asyncio.gather(*(wire.post(url, HEADERS, REQUEST, DEADLINE_SECONDS) for _ in range(4)))

        results = with_wire(open_small_wire(), act)
    assert [200] * 4 == [result.status for result in results]
    assert ["many.invalid"] == [host for host in looked_up if host == "many.invalid"]


def test_a_reset_while_connecting_is_never_billed(way: Way, server: FaultServer) -> None:
    """Whether the reset meets the connecting or the sending is a race; either way it is a fault without a POST."""
    fault = post(server.url("reset_at_once", way))
    assert isinstance(fault, Fault)
    assert "connection" == fault.kind
    assert 0 == server.posts["reset_at_once"]


def test_a_cut_stream_leaves_most_of_itself_as_evidence(way: Way, server: FaultServer) -> None:
    """Of a stream that breaks off, at least half is kept, from its beginning."""
    fault = post(server.url("sse_cut", way))
    assert isinstance(fault, Fault)
    assert ("unknown", 200) == (fault.stage, fault.status)
    assert fault.body.startswith(b'data: {"number": 0000')
    assert len(fault.body) >= 400 * 50 // 2


def test_large_replies_share_one_byte_budget(way: Way, server: FaultServer) -> None:
    """Replies over the budget end as faults, small ones beside them come through, the budget recovers."""

    async def act(wire: Wire) -> tuple[list[Response | Fault], Response | Fault]:
        large = [wire.post(server.url("large_body", way), HEADERS, REQUEST, 10.0) for _ in range(6)]
        small = [wire.post(server.url("whole", way), HEADERS, REQUEST, 10.0) for _ in range(2)]
        together = await asyncio.gather(*large, *small)
        return together, await wire.post(server.url("large_body", way), HEADERS, REQUEST, 10.0)

    wire = open_small_wire(max_body_bytes=8 * 2**20, max_bytes_in_flight=12 * 2**20)
    together, afterwards = with_wire(wire, act)
    ended = [result for result in together[:6] if isinstance(result, Fault)]
    assert ended
    assert {("unknown", "bad_reply", 200)} == {(fault.stage, fault.kind, fault.status) for fault in ended}
    assert "byte budget" in ended[0].message
    assert [200, 200] == [response.status for response in together[6:]]
    assert 5 * 2**20 == len(afterwards.body)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(1, 400), max_size=12), max_size=8))
def test_bodies_in_memory_never_exceed_the_budget(bodies: list[list[int]]) -> None:
    """However the chunks of all replies arrive: kept bytes <= total, but for the one chunk that ended its reply;
    a share is always granted; closing returns everything.
    """
    budget = ByteBudget(1000, 8)
    whole_budget = budget.free_bytes
    intakes = [(Intake(WireSettings(budget, max_body_bytes=500)), chunks) for chunks in bodies]
    kept_bytes = 0
    for turn in range(12):
        for intake, chunks in list(intakes):
            if turn < len(chunks):
                refusal = intake.add(b"x" * chunks[turn])
                if refusal is None:
                    kept_bytes += chunks[turn]
                else:
                    assert intake.size_bytes > budget.share_bytes
                    kept_bytes -= intake.size_bytes - chunks[turn]
                    intake.close()
                    intakes.remove((intake, chunks))
                assert kept_bytes <= 1000
    for intake, _ in intakes:
        intake.close()
    assert whole_budget == budget.free_bytes


@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=3), st.integers(1, 50), st.sampled_from([b"", b"junk"])
)
def test_a_gzip_stream_may_have_several_members(parts: list[bytes], piece_bytes: int, rest: bytes) -> None:
    """However it is cut into pieces; what follows the last member is no part of it."""
    packed = b"".join(map(gzip.compress, parts)) + rest
    unpack = Gunzip()
    # a member's first two bytes come together: they tell it from what is no member
    pieces = (
        [packed] if len(parts) > 1 else [packed[i : i + piece_bytes] for i in range(0, len(packed), piece_bytes)]
    )
    assert b"".join(parts) == b"".join(chunk for piece in pieces for chunk in unpack.chunks(piece))
    unpack.finish()


def test_the_key_is_in_no_log_and_no_message(
    way: Way, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Every logger at its loudest, replies and faults: the key appears nowhere."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger().setLevel(1)
    results = [post(server.url(name, way)) for name in ("whole", "garbage", "refused", "close_in_body")]
    assert KEY not in caplog.text
    assert KEY not in "".join(map(repr, results))


@pytest.mark.parametrize("value", [f"Bearer {KEY}\n", f"Bearer {KEY}\u20ac", f"Bearer\x00{KEY}"])
def test_a_key_that_http_cannot_carry_is_a_mistake_without_the_key(
    way: Way, value: str, server: FaultServer
) -> None:
    """A pasted newline in the key: the complaint names the header, and nothing shows its value."""
    wire = open_small_wire()
    with pytest.raises(InputError, match="authorization") as caught:
        with_wire(wire, lambda wire: wire.post(server.url("whole", way), {"authorization": value}, b"", 1.0))
    error: BaseException | None = caught.value
    while error is not None:
        assert KEY not in repr(error) or error.__suppress_context__
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    "url", ["api.example", "ftp://127.0.0.1/", "http://", "http://127.0.0.1:99999/", "http://[::1"]
)
def test_an_unusable_url_is_a_mistake(way: Way, url: str) -> None:
    """What could never be sent is the job's mistake, not a network fault that is tried again."""
    with pytest.raises(InputError, match=r"endpoint\.base_url"):
        post(url)


def test_running_out_of_file_descriptors_is_a_fault_not_a_crash(way: Way, server: FaultServer) -> None:
    """More calls than file descriptors: the process lives and the calls that found none are `not_sent`."""
    code = """
import asyncio, resource, sys
from crun_batch.gateway.http import wire as wires
wires.ensure_file_descriptors = lambda connections: None
async def main():
    wire = wires.open_wire(connections=100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    results = await asyncio.gather(*[wire.post(sys.argv[1], {}, b"", 2.0) for _ in range(100)])
    print(sorted({getattr(result, "stage", "reply") + " " + getattr(result, "kind", "") for result in results}))
asyncio.run(main())
"""
    command = [sys.executable, "-c", code, server.url("stall_before_headers", way)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "['not_sent connection', 'unknown timeout']\n" == done.stdout, done.stderr


def test_concurrency_above_the_hard_limit_of_files_is_refused() -> None:
    """The complaint names the key, and the number that fits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this system has no hard limit")
    with pytest.raises(InputError, match=rf"limits\.concurrency: .*{hard - 256:,} or less"):
        ensure_file_descriptors(hard)
    ensure_file_descriptors(1)
    assert (soft, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)


def test_the_soft_limit_of_files_is_raised_to_what_is_needed() -> None:
    """Only as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        ensure_file_descriptors(100)
        assert 356 == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_users_transport_replaces_the_network() -> None:
    """The httpx wire takes a MockTransport; its errors are told apart as the network's are."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/refused":
            raise httpx.ConnectError("refused")
        if request.url.path == "/illegal":
            raise httpx.LocalProtocolError(f"Illegal header value {request.headers['authorization']!r}")
        return httpx.Response(200, json={"echo": request.content.decode()})

    wire = HttpxWire(WireSettings(ByteBudget(2**20, 1)), httpx.MockTransport(answer))

    async def act(wire: Wire) -> list[Response | Fault]:
        return [
            await wire.post(f"http://model.invalid/{path}", HEADERS, b"hi", 1.0)
            for path in ("", "refused", "illegal")
        ]

    reply, refused, illegal = with_wire(wire, act)
    assert b'{"echo":"hi"}' == reply.body
    assert ("not_sent", "no connection: refused") == (refused.stage, refused.message)
    assert "not_sent" == illegal.stage
    assert KEY not in repr(illegal)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_told_by_name_and_address(host: str, local: bool) -> None:
    """Names that only look like it are somebody else's."""
    assert local == is_loopback(host)


@given(st.text(), st.integers(1, 400))
def test_texts_from_elsewhere_become_one_short_line(text: str, times: int) -> None:
    """Whatever a library or a server says, and however much."""
    line = message_line(text * times)
    assert line.isprintable()
    assert len(line) <= LONGEST_MESSAGE


def test_ordinary_headers_and_urls_pass() -> None:
    """The checks refuse nothing that HTTP can carry."""
    assert HEADERS == checked_headers(HEADERS)
    assert "h" == checked_url("https://h/x?y=z").hostname


def fate_table() -> str:
    """The table of docs/wire.md, from the fates above."""
    rows = ["| what happens | ends as | kind | POSTs |", "|---|---|---|---|"]
    rows += [f"| {fate.what_happens} | `{fate.stage}` | {fate.kind} | {fate.posts} |" for fate in FAULTS.values()]
    rows += [
        f"| {fate.what_happens} | reply, status {fate.status} | | {fate.posts} |" for fate in REPLIES.values()
    ]
    return "\n".join(rows)


def test_the_documented_table_is_the_tested_one() -> None:
    """docs/wire.md shows what these tests check (python tests/test_wire.py prints it)."""
    page = Path(__file__).parents[1] / "docs" / "wire.md"
    assert fate_table() in page.read_text(encoding="utf-8")


if __name__ == "__main__":
    print(fate_table())
