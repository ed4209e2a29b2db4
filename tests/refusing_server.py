"""A chat gateway over real HTTP that refuses at random, for tests and benchmarks. One process, plain sockets.

Answers after `--latency-seconds`; a share of the requests is refused after the same time, drawn by seed. Models
named with `--sick MODEL=STATUS` are always refused. `GET /stats` tells what it saw, and how many requests came
before the Retry-After of the same body was over. Prints its port, then serves until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MODEL = re.compile(rb'"model":\s*"([^"]*)"')
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1750000000,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "4"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
}
REASONS = {200: "OK", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}


def response(status: int, document: dict[str, Any], retry_after: float | None = None) -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}\r\ncontent-type: application/json\r\n"
    if retry_after is not None:
        head += f"retry-after: {retry_after:g}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def error(status: int, retry_after: float | None = None) -> bytes:
    code = "model_not_found" if status == 404 else "refused"
    return response(status, {"error": {"message": f"refused with {status}", "code": code}}, retry_after)


class Gateway:
    """What it does, and what it saw."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.sick = {model: int(status) for model, _, status in (each.partition("=") for each in settings.sick)}
        self.draw = random.Random(settings.seed)
        self.due: dict[bytes, float] = {}
        self.counts = {"requests": 0, "refused": 0, "too_early": 0}
        self.first_at = self.last_new_at = self.last_at = 0.0
        self.seen: set[bytes] = set()

    def reply_to(self, body: bytes) -> bytes:
        now, settings = time.monotonic(), self.settings
        self.counts["requests"] += 1
        self.counts["too_early"] += now < self.due.get(body, 0.0) - 0.001
        self.first_at = self.first_at or now
        if body not in self.seen:
            self.seen.add(body)
            self.last_new_at = now
        self.last_at = now
        model = MODEL.search(body)
        sick = self.sick.get(model[1].decode()) if model else None
        if sick is None and self.draw.random() >= settings.share:
            return response(200, ANSWER)
        self.counts["refused"] += 1
        if settings.retry_after is not None:
            self.due[body] = now + settings.latency_seconds + settings.retry_after
        return error(sick or settings.status, settings.retry_after)

    def stats(self) -> bytes:
        drained = self.last_new_at - self.first_at
        return response(200, {**self.counts, "drained_seconds": drained, "seconds": self.last_at - self.first_at})


class Connection(asyncio.Protocol):
    """One client's connection: requests with a Content-Length, one after the other."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head, rest = data[:end], data[end + 4 :]
            if head.startswith(b"GET"):
                known = b"/stats" in head.split(b"\r\n", 1)[0]
                self._write(self._gateway.stats() if known else error(404))
                data = rest
                continue
            length = re.search(rb"content-length:\s*(\d+)", head, re.IGNORECASE)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                break
            reply = self._gateway.reply_to(rest[:size])
            loop = asyncio.get_running_loop()
            loop.call_later(self._gateway.settings.latency_seconds, self._write, reply)
            data = rest[size:]
        self._received = data

    def _write(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """The URL of one in a process of its own, for as long as the context lasts."""
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


async def serve(settings: argparse.Namespace) -> None:
    gateway = Gateway(settings)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(gateway), "127.0.0.1", 0, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-seconds", type=float, default=0.1)
    parser.add_argument("--share", type=float, default=0.0)
    parser.add_argument("--status", type=int, default=429)
    parser.add_argument("--retry-after", type=float)
    parser.add_argument("--sick", action="append", default=[])
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
