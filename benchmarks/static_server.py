"""A gateway that gives every chat request the same reply, as cheaply as Python can, so that it is never the limit.

With `--certificate` it speaks https; with `--spin-us` it works that long on each reply, so that it is the limit.
It answers the two control calls too (models, balance), waits `--latency-seconds` before each reply, in order, and
tells at `/stats` what it saw. Prints its port, then serves until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import ssl
import time
from collections import deque
from pathlib import Path

from clients.measure import pin

MODEL = "gpt-5.4"
EVERY = 1_000
ANSWER = (
    "First find how many there are in all: 16 eggs a day less the 3 for breakfast and the 4 for the muffins "
    "leaves 16 - 3 - 4 = 9 eggs. Each of them is sold for 2 dollars, so the day brings in 9 * 2 = 18 dollars. "
    "Over the week nothing else is sold, so the answer stays what it is for one day.\n\n18"
)
REPLY = {
    "id": "chatcmpl-0123456789abcdef0123456789abcdef",
    "object": "chat.completion",
    "created": 1750000000,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": ANSWER, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 92,
        "completion_tokens": 87,
        "total_tokens": 179,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
}
CONTROL = {
    b"/models": {"object": "list", "data": [{"id": MODEL, "object": "model"}]},
    b"/balance": {"code": 200, "data": {"balance": 10**9}},
}


HEADERS = {
    "Content-Type": "application/json",
    "Date": "Sat, 01 Nov 2025 08:00:00 GMT",
    "Server": "static",
    "X-Request-Id": "req_0123456789abcdef0123456789abcdef",
}
PROVIDER_HEADERS = {
    "Connection": "keep-alive",
    "Access-Control-Expose-Headers": "X-Request-ID",
    "Openai-Organization": "user-0123456789abcdefghijklmn",
    "Openai-Processing-Ms": "512",
    "Openai-Project": "proj_0123456789abcdefghijklmn",
    "Openai-Version": "2020-10-01",
    "X-Envoy-Upstream-Service-Time": "530",
    "X-Ratelimit-Limit-Requests": "10000",
    "X-Ratelimit-Limit-Tokens": "30000000",
    "X-Ratelimit-Remaining-Requests": "9999",
    "X-Ratelimit-Remaining-Tokens": "29999908",
    "X-Ratelimit-Reset-Requests": "6ms",
    "X-Ratelimit-Reset-Tokens": "0s",
    "Cf-Cache-Status": "DYNAMIC",
    "Set-Cookie": "__cf_bm=0123456789abcdefghijklmnopqrstuvwxyz.0123456789-1750000000; path=/; HttpOnly; Secure",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains; preload",
    "X-Content-Type-Options": "nosniff",
    "Cf-Ray": "0123456789abcdef-FRA",
    "Alt-Svc": 'h3=":443"; ma=86400',
}
"""What a large provider sends beside them, its limits far from reached."""


def response(document: object, headers: dict[str, str] = HEADERS) -> bytes:
    body = json.dumps(document).encode()
    lines = [f"{name}: {value}" for name, value in (headers | {"Content-Length": str(len(body))}).items()]
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode() + body


class Gateway:
    """What all connections share: the reply, the queue of those that wait for it, the counts."""

    def __init__(self, latency_seconds: float, spin_seconds: float, every: int, headers: dict[str, str]) -> None:
        self.latency_seconds = latency_seconds
        self.every = every
        self.spin_seconds = spin_seconds
        self.reply = response(REPLY, headers)
        self.control = {path: response(document) for path, document in CONTROL.items()}
        self.requests = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.arrivals: list[float] = []
        """When the first request came, and every so many after it."""
        self.waiting: deque[tuple[float, asyncio.WriteTransport]] = deque()

    def ask(self, connection: asyncio.WriteTransport) -> None:
        if self.requests % self.every == 0:
            self.arrivals.append(time.time())
        self.requests += 1
        if self.spin_seconds:
            ready_at = time.thread_time() + self.spin_seconds  # of CPU time: it has its core to itself at best
            while time.thread_time() < ready_at:
                pass
        if not self.latency_seconds:
            connection.write(self.reply)
            return
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        loop = asyncio.get_running_loop()
        self.waiting.append((loop.time() + self.latency_seconds, connection))
        if len(self.waiting) == 1:
            loop.call_later(self.latency_seconds, self.answer)

    def answer(self) -> None:
        loop = asyncio.get_running_loop()
        while self.waiting and self.waiting[0][0] <= loop.time():
            self.in_flight -= 1
            connection = self.waiting.popleft()[1]
            if not connection.is_closing():
                connection.write(self.reply)
        if self.waiting:
            loop.call_later(max(0.0, self.waiting[0][0] - loop.time()), self.answer)

    def stats(self) -> bytes:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return response(
            {
                "requests": self.requests,
                "most_in_flight": self.most_in_flight,
                "arrivals": self.arrivals,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
            }
        )


class Connection(asyncio.Protocol):
    """One client's connection: requests with a Content-Length, one after the other."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._received + data if self._received else data
        while True:
            head_end = data.find(b"\r\n\r\n")
            if head_end < 0:
                break
            if data.startswith(b"GET"):
                self._control(data[:head_end])
                data = data[head_end + 4 :]
                continue
            head = data[:head_end].lower()
            place = head.find(b"content-length:")
            end = head_end + 4 + int(head[place + 15 : place + 25].split(b"\r", 1)[0])
            if len(data) < end:
                break
            self._gateway.ask(self._transport)
            data = data[end:]
        self._received = data

    def _control(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path == b"/stats":
            self._transport.write(self._gateway.stats())
            return
        found = [reply for name, reply in self._gateway.control.items() if path.endswith(name)]
        self._transport.write(found[0] if found else b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")


async def serve(gateway: Gateway, certificate: Path | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(gateway), "127.0.0.1", 0, backlog=16_384, ssl=context
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--latency-seconds", type=float, default=0.0)
    parser.add_argument("--spin-us", type=float, default=0.0)
    parser.add_argument("--every", type=int, default=EVERY, help="of how many requests one time is kept")
    parser.add_argument("--many-headers", action="store_true", help="those of a large provider")
    parser.add_argument("--core", type=int)
    parser.add_argument(
        "--certificate", type=Path, help="serve https: a PEM file with the key and its certificates"
    )
    arguments = parser.parse_args()
    pin(arguments.core)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    headers = HEADERS | PROVIDER_HEADERS if arguments.many_headers else HEADERS
    gateway = Gateway(arguments.latency_seconds, arguments.spin_us / 1e6, arguments.every, headers)
    uvloop.run(serve(gateway, arguments.certificate))


if __name__ == "__main__":
    main()
