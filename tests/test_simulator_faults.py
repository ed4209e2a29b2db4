"""Laws of the simulated gateway's HTTP and of what it breaks on purpose."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from simulator_kit import BODIES, CHAT, HEAD, KEY, QUESTION, Wire, chat, gateway, parsed, send, unchunked

from crun_batch.simulator import Settings, SimulatorProcess
from crun_batch.simulator.connection import ReceivedRequest
from crun_batch.simulator.faults import AFTER, BEFORE
from crun_batch.simulator.gateway import latency_seconds


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(Settings(tokenizer="words")) as simulator:
        yield simulator


def test_markers_order_faults_by_attempt() -> None:
    """Two 500s, then one 429, then an answer; other requests are not touched."""
    at = gateway(fault_retry_after_seconds=7)
    body = chat("please [[fault:500*2]] [[fault:429]]")
    replies = [send(at, CHAT, body) for _ in range(4)]
    assert [500, 500, 429, 200] == [status for status, _, _ in replies]
    assert "7" == replies[2][1]["retry-after"]
    assert 1 == at.ledger.count
    assert 200 == send(at, CHAT, chat("something else"))[0]
    assert [503] * 5 == [send(at, CHAT, chat("[[fault:503*always]]"))[0] for _ in range(5)]
    assert {"500": 2, "429": 1, "503": 5} == at.stats.report()["faults"]


def test_rates_draw_the_same_faults_again_and_as_many_as_they_say() -> None:
    """Faults depend on seed, request and attempt, not on order; a retry draws anew."""

    def statuses(order: range, **changes: Any) -> dict[int, int]:
        at = gateway(faults={"500": 0.2, "429": 0.1}, ledger_entries=False, **changes)
        return {n: send(at, CHAT, chat(f"{n}"))[0] for n in order}

    first = statuses(range(1000))
    assert first == statuses(range(999, -1, -1))
    assert first != statuses(range(1000), seed=1)
    found = [*first.values()]
    assert 150 <= found.count(500) <= 250
    assert 70 <= found.count(429) <= 130
    at = gateway(faults={"500": 0.5})
    assert {200, 500} == {send(at, CHAT, chat("again"))[0] for _ in range(20)}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("status", [400, 408, 429, 500, 502, 503, 504, 529])
def test_status_faults_come_in_the_words_of_the_endpoint_and_cost_nothing(path: str, status: int) -> None:
    """An error reply is not charged, unless `bill_errors` says so for the gateway's own (5xx)."""
    marked = json.loads(json.dumps(BODIES[path]).replace(QUESTION, f"[[fault:{status}]]"))
    at = gateway()
    replied, _, reply = send(at, path, marked)
    assert (status, 0) == (replied, at.ledger.count)
    assert (path == "/messages") == ("request_id" in reply)
    assert reply["error"]["message"]
    billed = gateway(bill_errors=True)
    send(billed, path, marked)
    assert (1 if status >= 500 else 0) == billed.ledger.count


def test_crun_codes_come_inside_http_200_and_455_in_crun_words() -> None:
    """CRUN's outer gateway may say its code in the body only."""
    status, _, reply = send(gateway(), CHAT, chat("[[fault:code_402]]"))
    assert (200, 402, None) == (status, reply["code"], reply["data"])
    status, _, reply = send(gateway(), CHAT, chat("[[fault:455]]"))
    assert (455, 455) == (status, reply["code"])


def test_a_latency_is_lognormal_around_its_median() -> None:
    """Half of the requests wait longer than the median; without sigma all wait alike."""
    settings = Settings(latency_seconds=2.0, latency_sigma=0.5)
    waits = sorted(
        latency_seconds(settings, hashlib.sha256(bytes([n % 256, n // 256])).digest()) for n in range(2000)
    )
    assert 1.85 <= waits[1000] <= 2.15
    assert 1.0 <= waits[317] <= 1.4
    assert 2.0 == latency_seconds(Settings(latency_seconds=2.0), b"x" * 32)


def test_writing_takes_time_by_the_token() -> None:
    """tokens_per_second spreads a stream, and holds an unstreamed reply back until it is written."""
    at = gateway(latency_seconds=1.0, tokens_per_second=10, output_tokens_sigma=0)
    for stream in (False, True):
        raw = json.dumps(chat(QUESTION, stream=stream)).encode()
        delivery = at.handle(ReceivedRequest("POST", "/api/v1/chat/completions", "", KEY, raw))
        expected = 1.0 + at.ledger.entries[-1].output_tokens / 10
        assert pytest.approx(expected) == sum(wait for wait, _ in delivery.steps)
        assert (1.0 == delivery.steps[0][0]) == stream


def count_of(simulator: SimulatorProcess) -> int:
    return int(simulator.ledger()["count"])


def test_one_connection_carries_many_requests_even_early_ones(running: SimulatorProcess) -> None:
    """Keep-alive; requests that come before the last reply is out are answered in order."""
    with Wire(running) as wire:
        for n in range(3):
            wire.post(chat(f"{n}", max_tokens=n + 1))
        assert [1, 2, 3] == [json.loads(wire.reply()[2])["usage"]["completion_tokens"] for _ in range(3)]


def test_a_request_may_come_byte_by_byte_and_chunked(running: SimulatorProcess) -> None:
    """However the bytes are cut, the request is the same."""
    raw = json.dumps(chat("chunked")).encode()
    chunks = b"%x;ext=1\r\n%b\r\n%X\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (7, raw[:7], len(raw) - 7, raw[7:])
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with Wire(running) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(head + chunks)):
            wire.socket.sendall((head + chunks)[place : place + 1])
        slow = json.loads(wire.reply()[2])
        wire.post(chat("chunked"))
        assert json.loads(wire.reply()[2]) == slow


def test_a_client_that_asks_before_it_sends_is_told_to_continue(running: SimulatorProcess) -> None:
    """Expect: 100-continue."""
    raw = json.dumps(chat("big")).encode()
    head = HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(raw)
    with Wire(running) as wire:
        wire.socket.sendall(head)
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == wire.socket.recv(100)
        wire.socket.sendall(raw)
        assert 200 == wire.reply()[0]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET /api/v1/models HTTP/2.0\r\n\r\n", 400),
        (b"GET /api/v1/models HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70000, 431),
    ],
)
def test_what_is_no_http_is_refused_and_the_connection_closed(
    running: SimulatorProcess, request_bytes: bytes, status: int
) -> None:
    """Ambiguous lengths above all: two ways to read a request are one too many."""
    with Wire(running) as wire:
        wire.socket.sendall(request_bytes)
        assert status == parsed(wire.rest())[0]


def test_head_has_the_length_and_no_body(running: SimulatorProcess) -> None:
    """HEAD is GET without the body; the next reply on the connection is not confused."""
    with Wire(running) as wire:
        request = b" /api/v1/models HTTP/1.1\r\nX-API-Key: ak_sim\r\n\r\n"
        wire.socket.sendall(b"GET" + request)
        length = wire.reply()[1]["content-length"]
        wire.socket.sendall(b"HEAD" + request + b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n")
        heads = wire.rest().split(b"\r\n\r\n")
        assert length == parsed(heads[0])[1]["content-length"]
        assert 404 == parsed(heads[1])[0]


CHARGED = dict.fromkeys(AFTER, 1) | dict.fromkeys(BEFORE, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", sorted(CHARGED))
def test_faults_do_what_they_say(running: SimulatorProcess, kind: str, stream: bool) -> None:
    """What the client sees of each fault, and whether it was charged."""
    running.change(drip_seconds=0.0001, stall_seconds=0.2)
    body = chat(f"[[fault:{kind}]] {QUESTION}", stream=stream, max_tokens=8)
    before = count_of(running)
    with Wire(running) as wire:
        wire.post(body)
        CHECKS[kind](wire, stream)
    assert CHARGED[kind] == count_of(running) - before
    with Wire(running) as wire:
        wire.post({**body, "stream": False})
        assert 200 == wire.reply()[0]


def is_reset(wire: Wire, stream: bool) -> None:
    with pytest.raises(ConnectionResetError):
        wire.rest()


def is_closed_without_a_byte(wire: Wire, stream: bool) -> None:
    assert b"" == wire.rest()


def is_silent(wire: Wire, stream: bool) -> None:
    started = time.monotonic()
    assert b"" == wire.rest()
    assert time.monotonic() - started >= 0.19


def is_half(wire: Wire, stream: bool) -> None:
    status, headers, body = parsed(wire.rest())
    assert 200 == status
    if stream:
        assert b"[DONE]" not in body and not body.endswith(b"0\r\n\r\n")
    else:
        assert int(headers["content-length"]) // 2 == len(body)


def is_half_and_silent(wire: Wire, stream: bool) -> None:
    started = time.monotonic()
    is_half(wire, stream)
    assert time.monotonic() - started >= 0.19


def whole_body(wire: Wire, stream: bool) -> tuple[dict[str, str], bytes]:
    if not stream:
        return wire.reply()[1:]
    found = b""
    while not found.endswith(b"0\r\n\r\n"):
        data = wire.socket.recv(65536)
        assert data, "the stream has no end"
        found += data
    _, headers, body = parsed(found)
    return headers, unchunked(body)


def is_broken_json(wire: Wire, stream: bool) -> None:
    body = whole_body(wire, stream)[1]
    events = [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event] if stream else [body]
    assert len(events) - stream - 1 == sum(is_json(event) for event in events)


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def is_cut(wire: Wire, stream: bool) -> None:
    body = whole_body(wire, stream)[1]
    assert b"[DONE]" not in body
    assert stream or not is_json(body)


def is_empty(wire: Wire, stream: bool) -> None:
    assert b"" == whole_body(wire, stream)[1]


def is_whole(wire: Wire, stream: bool) -> None:
    body = whole_body(wire, stream)[1]
    assert body.endswith(b"data: [DONE]\n\n") if stream else "choices" in json.loads(body)


def is_html(wire: Wire, stream: bool) -> None:
    assert "text/html" == whole_body(wire, stream)[0]["content-type"]


def is_error_in_200(wire: Wire, stream: bool) -> None:
    body = whole_body(wire, stream)[1]
    last = body.strip().split(b"\n\n")[-1].removeprefix(b"data: ") if stream else body
    assert "api_error" == json.loads(last)["error"]["type"]


def is_filtered(wire: Wire, stream: bool) -> None:
    status, _, body = wire.reply()
    assert (400, "content_filter") == (status, json.loads(body)["error"]["code"])


CHECKS = {
    "reset_before": is_reset,
    "reset_after": is_reset,
    "close_before": is_closed_without_a_byte,
    "close": is_closed_without_a_byte,
    "stall": is_silent,
    "stall_body": is_half_and_silent,
    "truncated": is_half,
    "cut_stream": is_cut,
    "malformed": is_broken_json,
    "empty": is_empty,
    "drip": is_whole,
    "wrong_type": is_html,
    "error_in_200": is_error_in_200,
    "content_filter": is_filtered,
}
