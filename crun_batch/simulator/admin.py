"""Calls under /simulator/: look into the books and turn the knobs while the simulator runs. No key is asked for.

GET  /simulator/ledger?entries=1&after=SERIAL   totals; with entries, the charges after that serial
GET  /simulator/stats                           counters
POST /simulator/settings                        a JSON object of settings to change
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import msgspec
import orjson

from crun_batch.errors import InputError
from crun_batch.simulator.connection import Delivery, ReceivedRequest, reply_bytes, whole
from crun_batch.simulator.gateway import SimulatedGateway
from crun_batch.simulator.settings import decimal_text

ADMIN_PATH = "/simulator"


def handle_admin(gateway: SimulatedGateway, request: ReceivedRequest) -> Delivery:
    """The delivery for a request under ADMIN_PATH."""
    match request.method, request.path.removeprefix(ADMIN_PATH):
        case "GET", "/ledger":
            status, answer = _ledger(gateway, request.query)
        case "GET", "/stats":
            status, answer = 200, gateway.stats.report()
        case "POST", "/settings":
            status, answer = _change(gateway, request.body)
        case _:
            status, answer = 404, {"error": "known are GET ledger, GET stats, POST settings"}
    return whole(request, reply_bytes(status, msgspec.json.encode(answer)))


def _ledger(gateway: SimulatedGateway, query: str) -> tuple[int, dict[str, Any]]:
    ledger = gateway.ledger
    totals: dict[str, Any] = {
        "count": ledger.count,
        "charge_credits": decimal_text(ledger.charged_pico),
        "balance_credits": decimal_text(ledger.balance_pico),
    }
    wanted = parse_qs(query)
    if wanted.get("entries", ["0"])[0] == "0":
        return 200, totals
    after = wanted.get("after", ["-1"])[0]
    if not after.lstrip("-").isdecimal():
        return 400, {"error": f"after={after} is no serial number"}
    return 200, {**totals, "entries": ledger.entries[int(after) + 1 :]}


def _change(gateway: SimulatedGateway, body: bytes) -> tuple[int, dict[str, Any]]:
    try:
        changes = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return 400, {"error": f"the body is not valid JSON: {error}"}
    if not isinstance(changes, dict):
        return 400, {"error": "the body is no JSON object"}
    try:
        gateway.change(changes)
    except InputError as error:
        return 400, {"error": str(error)}
    return 200, {"changed": sorted(changes)}
