"""The forms in which gateways take batches: their statuses folded, their results read, a lost batch's suspects."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crun_batch.gateway.batches.anthropic_form import STATUS_OF_ERROR, AnthropicBatches
from crun_batch.gateway.batches.asking import BatchAddress
from crun_batch.gateway.batches.form import BatchForm, BatchTold, FileForm, InlineForm
from crun_batch.gateway.batches.openai_form import OpenAIBatches
from crun_batch.gateway.batches.openrouter_form import OpenRouterBatches
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.load.job.batch_forms import batch_form
from crun_batch.records import Fault, Response
from crun_batch.session.batching.searching import is_it, suspects_of
from crun_batch.store.batches import BatchEntry

NOW_US = 1_700_000_000_000_000
NOW = NOW_US / 1e6
ADDRESS = BatchAddress("https://gate.test/v1", "", {}, lambda data: data)
ENTRY = BatchEntry(3, "creating", NOW_US, "aabbccddeeff", 100, requests=20, form="anthropic", asked_at=NOW_US)


class Replies:
    """A wire that has a reply for each path, and 404 for all others."""

    def __init__(self, **by_path: Any) -> None:
        self._by_path = by_path

    async def get(self, url: str, headers: Any, deadline_seconds: float) -> Response:
        found = self._by_path.get(url.removeprefix(ADDRESS.base_url))
        body = found if isinstance(found, bytes) else json.dumps(found or {"error": {"message": "no"}}).encode()
        return Response(404 if found is None else 200, {"content-type": "application/json"}, body)

    async def post(self, url: str, headers: Any, body: bytes, deadline_seconds: float) -> Response:
        return await self.get(url, headers, deadline_seconds)

    async def close(self) -> None:
        pass


def form_named(name: str, wire: Replies) -> BatchForm:
    clock = {"epoch_seconds": lambda: NOW}
    if name == "anthropic":
        return AnthropicBatches(wire, ADDRESS, PROTOCOLS["messages"], **clock)
    if name == "openrouter":
        return OpenRouterBatches(wire, ADDRESS, PROTOCOLS["chat"], model="openai/gpt-5.4", window="24h", **clock)
    return OpenAIBatches(wire, ADDRESS, PROTOCOLS["chat"], window="24h", **clock)


OPENAI = {"id": "b", "request_counts": {"total": 9, "completed": 6, "failed": 1}}
MESSAGES = {"id": "b", "created_at": "2023-11-14T22:13:20Z"}
ENDED = {"processing": 0, "succeeded": 6, "errored": 1}


@pytest.mark.parametrize(
    ("form", "told", "state", "status", "done", "requests"),
    [
        *(
            (form, {**OPENAI, "status": status}, state, status, 7, 9)
            for form in ("openai", "openrouter")
            for status, state in (
                ("validating", "accepted"),
                ("in_progress", "running"),
                ("finalizing", "ending"),
                ("cancelling", "ending"),
                ("completed", "ended"),
                ("expired", "ended"),
                ("cancelled", "ended"),
                ("canceling", "ending"),
                ("canceled", "ended"),
                ("a word of tomorrow", "running"),
            )
        ),
        ("openai", {**OPENAI, "status": "failed"}, "refused", "failed", 7, 9),
        ("openrouter", {**OPENAI, "status": "failed"}, "ended", "failed", 7, 9),
        ("openrouter", {"id": "b", "status": "failed", "request_counts": {"total": 9}}, "refused", "failed", 0, 9),
        (
            "anthropic",
            {**MESSAGES, "processing_status": "in_progress", "request_counts": {"processing": 9}},
            *("running", "in_progress", None, 9),
        ),
        (
            "anthropic",
            {**MESSAGES, "processing_status": "canceling", "request_counts": {"processing": 9}},
            *("ending", "canceling", None, 9),
        ),
        (
            "anthropic",
            {**MESSAGES, "processing_status": "ended", "request_counts": ENDED},
            *("ended", "ended", 7, 7),
        ),
        (
            "anthropic",
            {**MESSAGES, "processing_status": "ended", "request_counts": {**ENDED, "expired": 2}},
            *("ended", "expired", 7, 9),
        ),
        (
            "anthropic",
            {
                **MESSAGES,
                "processing_status": "ended",
                "cancel_initiated_at": "2023-11-14T22:13:20Z",
                "request_counts": {**ENDED, "canceled": 2},
            },
            *("ended", "canceled", 7, 9),
        ),
        ("anthropic", {**MESSAGES, "processing_status": "ended"}, "ended", "ended", None, None),
    ],
)
def test_every_status_is_one_of_five_states(
    form: str, told: dict[str, Any], state: str, status: str, done: int | None, requests: int | None
) -> None:
    """A word that is not known is waited out; a batch that failed with requests done has ended."""
    path = "/messages/batches/b" if form == "anthropic" else "/batches/b"
    found = asyncio.run(form_named(form, Replies(**{path: told})).look("b"))
    assert isinstance(found, BatchTold)
    assert (state, status, done, requests) == (found.state, found.status, found.done, found.requests)
    if form == "anthropic":
        assert NOW == found.created_at


@pytest.mark.parametrize("form", ["openai", "openrouter"])
@pytest.mark.parametrize("created_at", [int(NOW), str(int(NOW)), "2023-11-14T22:13:20Z"])
@pytest.mark.parametrize("errors", [None, "", "no", ["no"], {"data": [{"message": "no"}]}, {"data": "no"}, 3])
def test_gateways_spell_a_batch_in_their_own_way(form: str, created_at: Any, errors: Any) -> None:
    """Statuses in capitals, dates as text, errors in whatever shape: a batch that is out is collected."""
    told = {**OPENAI, "status": "COMPLETED", "created_at": created_at, "errors": errors, "error": errors}
    found = asyncio.run(form_named(form, Replies(**{"/batches/b": told})).look("b"))
    assert isinstance(found, BatchTold)
    assert ("ended", "completed", NOW, 7) == (found.state, found.status, found.created_at, found.done)


def test_the_forms_are_of_two_transports() -> None:
    """Files at OpenAI, inline at the others: none is both."""
    transports = {
        name: (
            isinstance(form_named(name, Replies()), FileForm),
            isinstance(form_named(name, Replies()), InlineForm),
        )
        for name in ("openai", "anthropic", "openrouter")
    }
    assert {"openai": (True, False), "anthropic": (False, True), "openrouter": (False, True)} == transports


def message_line(name: str, kind: str, **what: Any) -> bytes:
    return json.dumps({"custom_id": name, "result": {"type": kind, **what}}).encode()


def test_results_of_message_batches_are_replies_and_faults() -> None:
    """Each ending of a request, and lines that are none."""
    content = b"\n".join(
        [
            message_line("a", "succeeded", message={"id": "msg_1"}),
            *(
                message_line(kind, "errored", error={"type": "error", "error": {"type": kind, "message": "no"}})
                for kind in (*STATUS_OF_ERROR, "of_tomorrow")
            ),
            message_line("e", "expired"),
            message_line("c", "canceled"),
            message_line("x", "of_tomorrow"),
            b"{",
            b'{"custom_id": "b"}',
            message_line("d", "errored", error=5),
        ]
    )
    lines = list(form_named("anthropic", Replies()).lines(content))
    replies = {one.custom_id: one.arrival for one in lines if one and isinstance(one.arrival, Response)}
    faults = {one.custom_id: one.arrival.stage for one in lines if one and isinstance(one.arrival, Fault)}
    assert {"a": 200, **STATUS_OF_ERROR, "of_tomorrow": 500} == {name: one.status for name, one in replies.items()}
    assert {"id": "msg_1"} == json.loads(replies["a"].body)
    assert {"e": "not_sent", "c": "not_sent", "x": "unknown"} == faults
    assert 3 == lines.count(None)


def result(name: str) -> dict[str, Any]:
    response = {"status_code": 200, "request_id": "r", "body": {"text": f"a\nb {name}"}}
    return {"id": "1", "custom_id": name, "response": response, "error": None}


@pytest.mark.parametrize("indent", [None, 2])
def test_results_in_the_batch_or_in_pages_are_the_same(indent: int | None) -> None:
    """However the gateway spells its JSON; one line that is none hides no other."""
    wrong = {"custom_id": 5}
    whole = {"id": "b", "status": "completed", "results": [result("a"), wrong, result("c")]}
    pages = {
        "/batches/b": {**whole, "results": None},
        "/batches/b/results": {"data": [result("a"), wrong], "has_more": True, "next_cursor": "2"},
        "/batches/b/results?cursor=2": {"data": [result("c")], "has_more": False, "next_cursor": None},
    }
    for by_path in ({"/batches/b": whole}, pages):
        spelled = {path: json.dumps(one, indent=indent).encode() for path, one in by_path.items()}
        form = form_named("openrouter", Replies(**spelled))
        content = asyncio.run(form.read("b"))
        assert isinstance(content, bytes)
        lines = list(form.lines(content))
        assert ["a", None, "c"] == [one and one.custom_id for one in lines]
        assert lines[2] is not None and isinstance(lines[2].arrival, Response)
        assert {"text": "a\nb c"} == json.loads(lines[2].arrival.body)


def test_a_batch_without_results_anywhere_says_nothing() -> None:
    """An expired one of a gateway that has no pages of results: what was done of it is not known to be free."""
    form = form_named("openrouter", Replies(**{"/batches/b": {"id": "b", "status": "expired", "results": None}}))
    content = asyncio.run(form.read("b"))
    assert isinstance(content, bytes) and [] == list(form.lines(content))


@given(bodies=st.lists(st.dictionaries(st.text(), st.text() | st.integers()), min_size=1), pretty=st.booleans())
def test_inline_requests_arrive_as_they_are(bodies: list[dict[str, Any]], pretty: bool) -> None:
    """Whatever a body holds; OpenRouter reads the endpoint and the model before the requests."""
    requests = [
        (f"tag-{n}", json.dumps(body, indent=2 if pretty else None).encode()) for n, body in enumerate(bodies)
    ]
    for name, key in (("anthropic", "params"), ("openrouter", "body")):
        sent = json.loads(form_named(name, Replies()).content(requests))
        assert [{"custom_id": f"tag-{n}", key: body} for n, body in enumerate(bodies)] == sent["requests"]
    assert ["endpoint", "model", "completion_window", "requests"] == list(sent)


@pytest.mark.parametrize(
    ("told", "is_suspect"),
    [
        (BatchTold("b", "running", "", requests=20, created_at=NOW), True),
        (BatchTold("b", "running", "", requests=20, created_at=NOW - 500), True),
        (BatchTold("b", "running", "", requests=20, created_at=NOW + 2000), True),
        (BatchTold("b", "running", ""), True),
        (BatchTold("b", "running", "", requests=21, created_at=NOW), False),
        (BatchTold("b", "running", "", requests=20, created_at=NOW - 700), False),
        (BatchTold("b", "running", "", requests=20, created_at=NOW + 3000), False),
        (BatchTold("known", "running", "", requests=20, created_at=NOW), False),
    ],
)
def test_what_fits_in_time_and_count_is_a_suspect(told: BatchTold, is_suspect: bool) -> None:
    """What a gateway does not tell rules nothing out; what is known to be another one is none."""
    assert is_suspect is bool(suspects_of(ENTRY, [told], frozenset({"known"})))


def test_a_model_that_comes_back_with_more_to_its_name_may_be_ours() -> None:
    """Another one is not: the list of a form that shows the model leaves it out."""
    listed = [
        {"id": str(number), "status": "in_progress", "model": model}
        for number, model in enumerate(("openai/gpt-5.4", "gpt-5.4-2026-01-01", "x/gpt-5.4:batch", None, "claude"))
    ]
    form = form_named("openrouter", Replies(**{"/batches?limit=100": {"data": listed}}))
    found = asyncio.run(form.listed(NOW))
    assert isinstance(found, list) and ["0", "1", "2", "3"] == [one.id for one in found]


def test_the_custom_ids_say_whose_a_batch_was() -> None:
    """Ours by one of them; another's by all; nobody's where it has left none."""
    ours, another = (message_line(f"{tag}-101", "expired") for tag in (ENTRY.tag, "another"))
    form = form_named("anthropic", Replies())
    for content, verdict in ((ours, True), (another, False), (another + b"\n" + ours, True), (b"{", None)):
        assert verdict is is_it(ENTRY, form.lines(content))


@pytest.mark.parametrize(
    ("written", "protocol", "base_url", "expected"),
    [
        ("auto", "chat", "https://api.openai.com/v1", "openai"),
        (None, "messages", "https://api.anthropic.com/v1", "anthropic"),
        ("auto", "messages", "https://openrouter.ai/api/v1", "openrouter"),
        ("openai", "chat", "https://openrouter.ai/api/v1", "openai"),
        ("openrouter", "chat", "https://gate.test/v1", "openrouter"),
        (5, None, 5, "openai"),
        ("auto", "chat", "https://[", "openai"),
    ],
)
def test_the_form_follows_from_the_address_and_the_protocol(
    written: object, protocol: object, base_url: object, expected: str
) -> None:
    """As it is written, else openrouter.ai's own, else by the protocol; what is wrong is told elsewhere."""
    assert expected == batch_form(written, protocol, base_url)
