"""`/batches` in OpenRouter's form, which some gateways repeat: requests inline, results in the batch itself.

Facts from OpenRouter's pages (openrouter.ai/docs, "Batch API Quickstart" and the reference of Batch): `endpoint`
and `model` stand before `requests` in the body, which is read as a stream; statuses are OpenAI's; a batch that is
over has its `results` inline, or page by page at `/results`, each as a line of OpenAI's output file; the list is
newest first and shows model and counts; there are no tags and no call that cancels, and deleting is no cancelling;
text only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import orjson
from msgspec import Raw, Struct

from crun_batch.gateway.batches.asking import (
    FILE_SECONDS,
    MOST_PAGES,
    BatchAddress,
    BatchCalls,
    below,
    count_of,
    epoch_seconds,
    part_of,
    unreadable,
)
from crun_batch.gateway.batches.form import BatchLineRead, BatchTold, CallTrouble, ControlWire
from crun_batch.gateway.batches.openai_form import STATES, done_count, result_of
from crun_batch.gateway.protocols.protocol import Protocol

_PATH = "/batches"


class _Document(Struct):
    """A batch, or a page of its results."""

    results: list[Raw] | None = None
    data: list[Raw] | None = None
    has_more: bool | None = None
    next_cursor: str | None = None


_decoder = msgspec.json.Decoder(_Document)


def result_documents(content: bytes) -> Iterator[BatchLineRead | None]:
    """What batches and pages of results say, a document a line; None: what is none."""
    for document in content.split(b"\n"):
        if document.strip():
            read = _read(document)
            yield from [None] if read is None else map(result_of, read.results or read.data or ())


def _read(document: bytes) -> _Document | None:
    try:
        return _decoder.decode(document)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


class OpenRouterBatches:
    """See `form.InlineForm`; the calls are below the gateway's base URL."""

    list_path = _PATH

    def __init__(
        self,
        wire: ControlWire,
        address: BatchAddress,
        protocol: Protocol,
        *,
        model: str,
        window: str,
        epoch_seconds: Callable[[], float],
    ) -> None:
        self._calls = BatchCalls(wire, address, protocol, epoch_seconds)
        self._path = protocol.path
        self._model = model
        self._window = window

    def content(self, requests: Iterable[tuple[str, bytes]]) -> bytes:
        """See the form."""
        items = b",".join(b'{"custom_id":%b,"body":%b}' % (orjson.dumps(name), body) for name, body in requests)
        head = orjson.dumps(
            {"endpoint": f"/v1{self._path}", "model": self._model, "completion_window": self._window}
        )
        return b'%b,"requests":[%b]}' % (head.removesuffix(b"}"), items)

    def lines(self, content: bytes) -> Iterator[BatchLineRead | None]:
        """See the form."""
        return result_documents(content)

    async def probe(self) -> CallTrouble | None:
        """See the form."""
        return await self._calls.probe(_PATH)

    async def submit(self, content: bytes) -> BatchTold | CallTrouble:
        """See the form."""
        return _told(await self._calls.post(_PATH, content, deadline_seconds=FILE_SECONDS))

    async def listed(self, since_seconds: float) -> Sequence[BatchTold] | CallTrouble:
        """See the form: those of another model are left out."""
        found = await self._calls.listed(_PATH, "after", _told, since_seconds)
        return found if isinstance(found, CallTrouble) else [one for one in found if self._may_be_ours(one)]

    def _may_be_ours(self, told: BatchTold) -> bool:
        """Whether its model may be the one that is asked: a name may come back with more at its end."""
        asked, named = _bare(self._model), _bare(told.model or "")
        return asked.startswith(named) or named.startswith(asked)

    async def look(self, batch_id: str) -> BatchTold | CallTrouble:
        """See the form."""
        return _told(await self._calls.get(below(_PATH, batch_id)))

    async def read(self, name: str) -> bytes | CallTrouble:
        """See the form: the batch itself; where it has no results, their pages, of gateways that have such."""
        batch = await self._calls.read(below(_PATH, name))
        if isinstance(batch, CallTrouble):
            return batch
        read = _read(batch)
        if read is None or read.results is not None:
            return _one_line(batch)
        pages, cursor = [_one_line(batch)], dict[str, str]()
        for _ in range(MOST_PAGES * MOST_PAGES):
            page = await self._calls.read(f"{below(_PATH, name)}/results", cursor)
            if isinstance(page, CallTrouble):
                return b"\n".join(pages) if page.fate == "not_there" else page
            pages.append(_one_line(page))
            read = _read(page)
            if read is None or not read.has_more or read.next_cursor is None:
                break
            cursor = {"cursor": read.next_cursor}
        return b"\n".join(pages)

    async def cancel(self, batch_id: str) -> BatchTold | CallTrouble:
        """See the form: as at OpenAI, for gateways that have it; OpenRouter itself documents none."""
        return _told(await self._calls.post(f"{below(_PATH, batch_id)}/cancel", b"{}"))

    async def close(self) -> None:
        """See the form."""
        await self._calls.close()


def _one_line(document: bytes) -> bytes:
    """The same JSON in one line: what ends a line stands between its tokens."""
    return document.replace(b"\r", b" ").replace(b"\n", b" ")


def _bare(model: str) -> str:
    """The name without who makes it and which variant of it is asked: `openai/gpt-5.4:batch` is gpt-5.4."""
    return model.rpartition("/")[2].partition(":")[0]


def _told(answer: dict[str, Any] | CallTrouble) -> BatchTold | CallTrouble:
    if isinstance(answer, CallTrouble):
        return answer
    status, identity = answer.get("status"), answer.get("id")
    if not isinstance(identity, str) or not isinstance(status, str):
        return unreadable("a batch without id or status")
    counts, status = part_of(answer, "request_counts"), status.lower()
    done = done_count(status, counts)
    state = STATES.get(status, "running")
    if state == "refused" and done:
        state = "ended"  # some of its requests were done, whatever it says
    error = part_of(answer, "error")
    return BatchTold(
        id=identity,
        state=state,
        status=status,
        requests=count_of(counts, "total") or None,
        model=answer.get("model"),
        created_at=epoch_seconds(answer.get("created_at")),
        done=done,
        files=(("results", identity),) if state in ("ended", "refused") else (),
        code=error.get("code"),
        why=error.get("message"),
    )
