"""CPU time per request over the wire alone, plain and under TLS, against the static server; httpx beside it.

    python benchmarks/wires.py            64 and 512 in flight; writes docs/benchmarks.md

Only the wire: no job, no journal. httpx is far slower, so it gets fewer requests.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import uvloop
from bench_pages import save, write_pages
from clients.measure import KEY, cpu_seconds, pin
from machine import CLIENT_CORE, description, static_server

from crun_batch import Response, open_wire

KINDS = {"wire": 1, "httpx": 40}
"""What is measured, and what the number of requests is divided by."""
HEADERS = {
    "authorization": f"Bearer {KEY}",
    "content-type": "application/json",
}
BODY = b'{"model": "gpt-5.4", "messages": [{"role": "user", "content": "%b"}]}' % (b"x" * 320)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    measured: dict[str, dict[str, dict[str, float]]] = {}
    pin(CLIENT_CORE)
    for scheme in ("http", "https"):
        with static_server(tls=scheme == "https") as server:
            os.environ.update(server.environ)
            url = f"{server.base_url}/chat/completions"
            measured[scheme] = {}
            for in_flight in (64, 512):
                costs: dict[str, list[float]] = {kind: [] for kind in KINDS}
                for _ in range(arguments.repetitions):
                    for kind, divisor in KINDS.items():
                        count = max(in_flight, arguments.requests // divisor)
                        costs[kind].append(uvloop.run(cost_us(kind, url, count, in_flight)))
                medians = {kind: statistics.median(each) for kind, each in costs.items()}
                measured[scheme][str(in_flight)] = medians
                for kind, median in medians.items():
                    print(f"{scheme:5} {in_flight:4} in flight  {kind:6} {median:8.1f} us per request", flush=True)
    save("wires", {"machine": description(), "repetitions": arguments.repetitions, "schemes": measured})
    write_pages()


Ask = Callable[[], Awaitable[int]]


async def cost_us(kind: str, url: str, count: int, in_flight: int) -> float:
    """CPU microseconds of this process per request, connections being open."""
    async with {"wire": over_the_wire, "httpx": over_httpx}[kind](url, in_flight) as ask:
        numbers = iter(range(count))
        await asyncio.gather(*(work(ask, iter(range(1))) for _ in range(in_flight)))
        before = cpu_seconds()
        await asyncio.gather(*(work(ask, numbers) for _ in range(in_flight)))
        return (cpu_seconds() - before) / count * 1e6


@asynccontextmanager
async def over_the_wire(url: str, in_flight: int):
    wire = open_wire(connections=in_flight)

    async def ask() -> int:
        reply = await wire.post(url, HEADERS, BODY, 60.0)
        return reply.status if isinstance(reply, Response) else 0

    yield ask
    await wire.close()


@asynccontextmanager
async def over_httpx(url: str, in_flight: int):
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(limits=limits, timeout=60.0) as client:

        async def ask() -> int:
            return (await client.post(url, headers=HEADERS, content=BODY)).status_code

        yield ask


async def work(ask: Ask, numbers: Iterator[int]) -> None:
    """One request after the other until the numbers are used up."""
    for _ in numbers:
        if await ask() != 200:
            raise SystemExit("no reply")


if __name__ == "__main__":
    main()
