"""CPU time per request over each wire, in turns, against the static server: what the choice of the wire costs.

    python benchmarks/wires.py            64 and 512 in flight, plain http; writes docs/benchmarks.md

Only the wire: no job, no journal. httpx has a connection per request here, so it gets fewer of them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Iterator

import uvloop
from bench_pages import save, write_pages
from clients.measure import cpu_seconds, pin
from machine import CLIENT_CORE, description, static_server

from crun_batch.gateway.http.wire import Wire, WireKind, open_wire
from crun_batch.records import Response

KINDS: dict[WireKind, int] = {"direct": 1, "pyreqwest": 1, "httpx": 20}
"""Each wire, and what the number of requests is divided by."""
HEADERS = {
    "authorization": "Bearer sk-bench-0123456789abcdefghijklmnopqrstuvwxyz",
    "content-type": "application/json",
}
BODY = b'{"model": "gpt-5.4", "messages": [{"role": "user", "content": "%b"}]}' % (b"x" * 320)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    measured: dict[str, dict[WireKind, float]] = {}
    with static_server() as server:
        pin(CLIENT_CORE)
        url = f"{server.base_url}/chat/completions"
        for in_flight in (64, 512):
            costs: dict[WireKind, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(arguments.repetitions):
                for kind, divisor in KINDS.items():
                    count = max(in_flight, arguments.requests // divisor)
                    costs[kind].append(uvloop.run(cost_us(kind, url, count, in_flight)))
            medians = measured[str(in_flight)] = {kind: statistics.median(each) for kind, each in costs.items()}
            for kind, median in medians.items():
                times = median / medians["direct"]
                print(
                    f"{in_flight:4} in flight  {kind:10} {median:8.1f} us per request  {times:6.1f} times direct"
                )
    save("wires", {"machine": description(), "repetitions": arguments.repetitions, "in_flight": measured})
    write_pages()


async def cost_us(kind: WireKind, url: str, count: int, in_flight: int) -> float:
    """CPU microseconds of this process per request."""
    wire = open_wire(kind, connections=in_flight)
    numbers = iter(range(count))
    await asyncio.gather(*(work(wire, url, iter(range(1))) for _ in range(in_flight)))
    before = cpu_seconds()
    await asyncio.gather(*(work(wire, url, numbers) for _ in range(in_flight)))
    spent = cpu_seconds() - before
    await wire.close()
    return spent / count * 1e6


async def work(wire: Wire, url: str, numbers: Iterator[int]) -> None:
    """One request after the other until the numbers are used up."""
    for _ in numbers:
        reply = await wire.post(url, HEADERS, BODY, 60.0)
        if not isinstance(reply, Response) or reply.status != 200:
            raise SystemExit(f"no reply: {reply}")


if __name__ == "__main__":
    main()
