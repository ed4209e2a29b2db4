"""Streams whose connection ends within the body: what said its end is kept, all else may have been billed."""

from __future__ import annotations

import asyncio
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from test_stream_ends import STREAMS

from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.http.bodies import says_its_end
from crun_batch.gateway.http.wire import open_wire
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.records import Failure, Fault, Reply, Response

HOWS = {
    "no last chunk": (b"Transfer-Encoding: chunked\r\n", True, True),
    "too few bytes": (b"Content-Length: 99999\r\n", False, True),
    "nothing more": (b"Transfer-Encoding: chunked\r\n", True, False),
}
"""Its headers, whether it comes as a chunk, and whether the connection is closed or only silent."""


@contextmanager
def torn(body: bytes, how: str) -> Iterator[str]:
    """The URL of a server that answers so."""
    headers, is_chunk, closes = HOWS[how]
    sent = b"%x\r\n%b\r\n" % (len(body), body) if is_chunk else body
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + headers + b"\r\n"
    is_over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(head + sent)
            if not closes:
                is_over.wait(10)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            is_over.set()
            server.shutdown()


def came(url: str) -> Response | Fault:
    async def main() -> Response | Fault:
        wire = open_wire(connections=1, urls=[url])
        result = await wire.post(url, {}, b"{}", 0.7)
        await wire.close()
        return result

    return asyncio.run(main())


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_said_its_end_is_kept_however_its_connection_ends(name: str, how: str) -> None:
    """It was paid for, and it is whole: sending it again would pay twice."""
    pieces = STREAMS[name](["posi", "tive"])
    with torn(b"".join(piece for _, piece in pieces), how) as url:
        arrival = came(url)
    assert isinstance(arrival, Response), arrival
    reply = check(PROTOCOLS[name], arrival, stream=True)  # type: ignore[index]
    assert isinstance(reply, Reply)
    assert ("positive", 12, 4) == (reply.text, reply.usage.input_tokens, reply.usage.output_tokens)  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["no last chunk", "too few bytes"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_did_not_is_of_unknown_outcome(name: str, how: str) -> None:
    """Its finish reason alone ends it only where its body ends in order; half of a last event is none."""
    pieces = [piece for _, piece in STREAMS[name](["posi", "tive"])]
    for body in (b"".join(pieces[:-1]), b"".join(pieces)[:-9]):
        with torn(body, how) as url:
            arrival = came(url)
        failure = (
            check_fault(arrival) if isinstance(arrival, Fault) else check(PROTOCOLS[name], arrival, stream=True)  # type: ignore[index]
        )
        assert isinstance(failure, Failure)
        assert ("unknown", "retry") == (failure.outcome, failure.action)


def test_what_only_speaks_of_an_end_is_none() -> None:
    """The last event counts, not what an answer says."""
    assert not says_its_end(b'data: {"choices": [{"delta": {"content": "[DONE]"}}]}\n\n')
    assert not says_its_end(b"data: [DONE]\n\ndata: {}\n\n")
    assert not says_its_end(b"")
    assert says_its_end(b"data: {}\r\n\r\ndata: [DONE]\r\n\r\n")
