"""The bundled gateway without a network: it answers in virtual time, with faults from a seed, and keeps its books.

A request's faults are a plan of its own: the k-th attempt whose end was recorded meets the k-th fault. An attempt
that a kill swallowed moves no plan forward, so that an interrupted run and an uninterrupted one meet the same
faults and must come to the same results.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import httpx
from msgspec import Struct

from crun_batch.records import Fault, Response
from crun_batch.simulator.asks import ModelUsage
from crun_batch.simulator.connection import Delivery, ReceivedRequest
from crun_batch.simulator.gateway import SimulatedGateway
from crun_batch.simulator.ledger import Charge, Ledger
from crun_batch.simulator.settings import Model, Settings, pico

BASE_URL = "http://127.0.0.1:9/api/v1"
MODEL = "gpt-5.4"
NOT_CONNECTED = "not_connected"
LONGEST_CALM_SECONDS = 30.0
"""Of a reply without a fault: only a fault drawn from the seed may outlast a deadline, as the laws count those."""
STORMS = ("429", "503", "529")
"""Refusals that no row is counted for: when they come makes no difference to the results."""


REFUSED_FOR_LACK_OF_ROOM = tuple(f"HTTP/1.1 {status}".encode() for status in STORMS)


class Storm(Struct, frozen=True):
    """From one moment to another every request ends in the same refusal."""

    begins: float
    ends: float
    kind: str


class Faults(Struct, frozen=True):
    """What goes wrong: shares of a request's attempts by kind, and storms."""

    seed: int
    shares: Mapping[str, float] = {}
    storms: tuple[Storm, ...] = ()

    def planned(self, request: bytes, attempt: int) -> str | None:
        """The fault of this attempt, whenever it comes."""
        text = b"%d %d " % (self.seed, attempt) + request
        share = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / 2**64
        for kind, rate in self.shares.items():
            if share < rate:
                return kind
            share -= rate
        return None

    def storm(self, now: float) -> str | None:
        return next((storm.kind for storm in self.storms if storm.begins <= now < storm.ends), None)


class CountingLedger(Ledger):
    """Counts what is charged for each request, by its digest."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(pico(settings.balance_credits), settings.ledger_path, settings.ledger_entries)
        self.charged: Counter[bytes] = Counter()

    def charge(self, usage: ModelUsage, amount_pico: int, **about: Any) -> Charge:
        self.charged[bytes.fromhex(about["request_sha256"])] += 1
        return super().charge(usage, amount_pico, **about)


class PlannedGateway(SimulatedGateway):
    """The simulator's gateway, whose faults follow `Faults`."""

    def __init__(self, settings: Settings, faults: Faults) -> None:
        ledger = CountingLedger(settings)
        super().__init__(settings, ledger)
        self.faults = faults
        self.recorded: Counter[bytes] = Counter()
        """Ends recorded of each request, by its digest."""
        self.now = 0.0
        self.charged = ledger.charged

    def _fault(self, body: bytes, digest: bytes) -> str | None:
        return self.faults.storm(self.now) or self.faults.planned(digest, self.recorded[digest])


class World:
    """Gateway, wire and books of one simulated place; outlives the processes that are killed in it."""

    def __init__(self, settings: Settings, faults: Faults, latency: random.Random) -> None:
        self.gateway = PlannedGateway(settings, faults)
        self.posts = 0
        self.posted_at: list[tuple[float, bytes]] = []
        self.most_in_flight = 0
        self._latency = latency

    def transport(self) -> httpx.MockTransport:
        """The control calls."""

        def handle(request: httpx.Request) -> httpx.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            delivery = self.gateway.handle(ReceivedRequest("GET", request.url.path, "", headers, b""))
            status, found, body, _ = parsed(b"".join(data for _, data in delivery.steps))
            return httpx.Response(status or 500, headers=found, content=body)

        return httpx.MockTransport(handle)

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Response | Fault:
        """Implements the wire: one call, at most one request at the gateway."""
        loop = asyncio.get_running_loop()
        gateway = self.gateway
        await asyncio.sleep(self._latency.uniform(0.001, 0.2))
        gateway.now = loop.time()
        digest = hashlib.sha256(body).digest()
        if gateway._fault(body, digest) == NOT_CONNECTED:
            gateway.recorded[digest] += 1
            return Fault("not_sent", "connection", "no connection: refused")
        self.posts += 1
        self.posted_at.append((gateway.now, digest))
        lower = {name.lower(): value for name, value in headers.items()}
        delivery = gateway.handle(ReceivedRequest("POST", url.removeprefix("http://127.0.0.1:9"), "", lower, body))
        moves_on = not (delivery.steps and delivery.steps[0][1].startswith(REFUSED_FOR_LACK_OF_ROOM))
        self.most_in_flight = max(self.most_in_flight, gateway.stats.in_flight)
        try:
            return await self._play(delivery, deadline_seconds)
        finally:
            gateway.recorded[digest] += moves_on
            if delivery.finished is not None:
                delivery.finished()

    async def close(self) -> None:
        """Nothing is open."""

    async def _play(self, delivery: Delivery, deadline_seconds: float) -> Response | Fault:
        left = deadline_seconds - min(LONGEST_CALM_SECONDS, self._latency.lognormvariate(0, 1.0))
        came = b""
        for wait, data in delivery.steps:
            if wait > left:
                break
            left -= wait
            came += data
        else:
            if delivery.end != "stall" or whole_reply(came):
                await asyncio.sleep(max(0.0, deadline_seconds - left))
                return arrival_of(came, "the connection was closed")
        await asyncio.sleep(deadline_seconds)
        status, _, body, _ = parsed(came)
        return Fault("unknown", "timeout", "no whole reply in time", status, body)


def arrival_of(came: bytes, cut: str) -> Response | Fault:
    """What a client makes of these bytes and the end of the connection."""
    status, headers, body, is_whole = parsed(came)
    if status is None or not is_whole:
        return Fault("unknown", "connection", cut, status, body)
    return Response(status, headers, body)


def whole_reply(came: bytes) -> bool:
    return parsed(came)[3]


def parsed(came: bytes) -> tuple[int | None, dict[str, str], bytes, bool]:
    """(status, headers, body, whether it is whole) of a reply's bytes."""
    head, found, rest = came.partition(b"\r\n\r\n")
    if not found:
        return None, {}, b"", False
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    status = int(first.split(" ")[1])
    if "content-length" in headers:
        return status, headers, rest, len(rest) == int(headers["content-length"])
    body = b""
    while True:
        size, found, rest = rest.partition(b"\r\n")
        length = int(size or b"0", 16) if found else 0
        if not length:
            return status, headers, body, size == b"0"
        body, rest = body + rest[:length], rest[length + 2 :]


def settings_of(seed: int, **changes: Any) -> Settings:
    """A gateway with one model, at prices that make every charge an odd number."""
    model = Model(
        input_per_mtok=Decimal("513.7"),
        output_per_mtok=Decimal("3001.3"),
        minimum_per_request=Decimal("0.01"),
        max_output_tokens=400,
    )
    values = {
        "seed": seed,
        "models": {MODEL: model},
        "tokenizer": "words",
        "balance_credits": Decimal(1_000_000),
        "ledger_entries": False,
        "stall_seconds": 10_000.0,
        "fault_markers": False,
    }
    return Settings(**{**values, **changes})
