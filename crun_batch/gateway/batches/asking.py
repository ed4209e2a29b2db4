"""The calls of every form of batches: one request, one object or one trouble, without the secrets that come back.

Knows no form: which paths there are, and what an object says, is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from msgspec import Struct, structs

from crun_batch.gateway.batches.form import BatchTold, CallTrouble, ControlWire
from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.protocols.protocol import Protocol
from crun_batch.records import Failure, Fault, Headers, Response

CALL_SECONDS = 60.0
FILE_SECONDS = 1800.0
PAGE = 100
MOST_PAGES = 50
NO_SUCH = frozenset({404, 405, 501})


class BatchAddress(Struct, frozen=True):
    """Where a gateway is and how it is asked."""

    base_url: str
    query: str
    headers: Mapping[str, str]
    """Hold the key."""
    redact: Callable[[bytes], bytes]
    """Takes the secrets out of what a gateway repeats, before anything is made of it."""

    def __repr__(self) -> str:
        return "BatchAddress(...)"


class BatchCalls:
    """Asks one gateway; every path is below its base URL."""

    def __init__(
        self, wire: ControlWire, address: BatchAddress, protocol: Protocol, epoch_seconds: Callable[[], float]
    ) -> None:
        self._wire = wire
        self._address = address
        self._protocol = protocol
        self._epoch_seconds = epoch_seconds

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any] | CallTrouble:
        """The object at a path."""
        return self._json(await self._wire.get(self._url(path, query), self._address.headers, CALL_SECONDS))

    async def post(
        self,
        path: str,
        body: bytes,
        *,
        content_type: str = "application/json",
        deadline_seconds: float = CALL_SECONDS,
    ) -> dict[str, Any] | CallTrouble:
        """The object that answers a body."""
        headers = Headers({**self._address.headers, "content-type": content_type})
        return self._json(await self._wire.post(self._url(path), headers, body, deadline_seconds))

    async def read(self, path: str, query: Mapping[str, str] | None = None) -> bytes | CallTrouble:
        """What is at a path, as it comes, line by line without secrets."""
        reply = await self._wire.get(self._url(path, query), self._address.headers, FILE_SECONDS)
        if isinstance(reply, Response) and reply.status == 200:
            return b"\n".join(map(self._address.redact, reply.body.split(b"\n")))
        return self._trouble(self._clean(reply))

    async def probe(self, path: str) -> CallTrouble | None:
        """Why nothing can be listed there; None: it can."""
        listed = await self.get(path, {"limit": "1"})
        return listed if isinstance(listed, CallTrouble) else None

    async def listed(
        self,
        path: str,
        after: str,
        told: Callable[[dict[str, Any] | CallTrouble], BatchTold | CallTrouble],
        since_seconds: float,
    ) -> list[BatchTold] | CallTrouble:
        """The batches that were made since then, older ones of the last page too; `after`: the cursor's name."""
        found: list[BatchTold] = []
        last: str | None = None
        for _ in range(MOST_PAGES):
            page = await self.get(path, {"limit": str(PAGE), **({after: last} if last else {})})
            if isinstance(page, CallTrouble):
                return page
            read = [told(item) for item in page.get("data") or ()]
            batches = [one for one in read if isinstance(one, BatchTold)]
            found += batches
            if page.get("has_more") is not True or not batches or batches[-1].created_at < since_seconds:
                break
            last = batches[-1].id
        return found

    async def close(self) -> None:
        """Close connections."""
        await self._wire.close()

    def _url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        asked = urlencode(query or {})
        joined = "&".join(part for part in (self._address.query.removeprefix("?"), asked) if part)
        return f"{self._address.base_url}{path}{'?' if joined else ''}{joined}"

    def _json(self, reply: Response | Fault) -> dict[str, Any] | CallTrouble:
        reply = self._clean(reply)
        if isinstance(reply, Fault) or not 200 <= reply.status < 300:
            return self._trouble(reply)
        try:
            answer = orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            return unreadable("a reply that is no JSON")
        return answer if isinstance(answer, dict) else unreadable("a reply that is no object")

    def _clean(self, reply: Response | Fault) -> Response | Fault:
        body = self._address.redact(reply.body)
        if isinstance(reply, Response):
            return structs.replace(reply, body=body)
        message = self._address.redact(reply.message.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
        return structs.replace(reply, body=body, message=message)

    def _trouble(self, reply: Response | Fault) -> CallTrouble:
        if isinstance(reply, Fault):
            return CallTrouble("not_done" if reply.stage == "not_sent" else "unclear", check_fault(reply))
        failure = check(self._protocol, reply, stream=False, now_epoch_seconds=self._epoch_seconds())
        if not isinstance(failure, Failure):
            return unreadable(f"HTTP {reply.status}")
        if reply.status in NO_SUCH:
            return CallTrouble("not_there", failure)
        return CallTrouble("unclear" if reply.status >= 500 or reply.status == 408 else "not_done", failure)


def below(path: str, name: str) -> str:
    """The path of what a gateway calls so, among what is listed at a path."""
    return f"{path}/{quote(name, safe='')}"


def unreadable(what: str) -> CallTrouble:
    """A 2xx that says nothing of use: what was asked may well be done."""
    return CallTrouble("unclear", Failure("unknown", "bad_reply", "retry", f"the gateway answered with {what}"))


def part_of(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object that an answer has under a name; a gateway may have none there, or something else."""
    found = answer.get(name)
    return found if isinstance(found, dict) else {}


def epoch_seconds(moment: Any) -> float:
    """Seconds since 1970 of a number or of an ISO date, gateways have either; 0: it says nothing."""
    try:
        return float(moment)
    except (TypeError, ValueError):
        pass
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError):
        return 0.0


def count_of(counts: Mapping[str, Any], *names: str) -> int:
    """The sum of some of a batch's counts; what is missing, or is no number, is none."""
    found = [counts.get(name) for name in names]
    return sum(one for one in found if isinstance(one, int) and one > 0)
