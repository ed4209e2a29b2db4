"""The simulator's files, batches and message batches: what is charged and told, what goes wrong on order."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest
from sdk_kit import anthropic_client, openai_client
from simulator_kit import KEY, chat, parsed

from crun_batch.errors import InputError
from crun_batch.simulator import Settings, SimulatorProcess
from crun_batch.simulator.connection import ReceivedRequest
from crun_batch.simulator.gateway import SimulatedGateway
from crun_batch.simulator.settings import pico_per_token, read_settings

CHAT_URL = "/v1/chat/completions"
HOUR = 3600.0


class Desk:
    """A gateway with batches and a clock that the test turns."""

    def __init__(self, **changes: Any) -> None:
        self.now = 1_000_000.0
        known = {"tokenizer": "words", "gateway_style": "plain", "batch_seconds": HOUR}
        self.gateway = SimulatedGateway(read_settings({**known, **changes}), epoch_seconds=lambda: self.now)

    def call(self, method: str, path: str, body: bytes = b"", query: str = "", **headers: str) -> Any:
        sent = {**KEY, **{name.replace("_", "-"): value for name, value in headers.items()}}
        delivery = self.gateway.handle(ReceivedRequest(method, f"/api/v1{path}", query, sent, body))
        if delivery.end == "reset":
            return None
        _, _, content = parsed(b"".join(data for _, data in delivery.steps))
        return (
            [json.loads(line) for line in content.splitlines()]
            if path.endswith(("/content", "/results")) and not content.startswith((b'{"error"', b'{"type"'))
            else json.loads(content)
        )

    def upload(self, content: bytes, **headers: str) -> Any:
        form = (
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="f.jsonl"\r\n\r\n'
            + content
            + b"\r\n--b--"
        )
        return self.call("POST", "/files", form, content_type="multipart/form-data; boundary=b", **headers)

    def create(self, file_id: str) -> Any:
        asked = {"input_file_id": file_id, "endpoint": CHAT_URL, "completion_window": "24h"}
        return self.call("POST", "/batches", json.dumps(asked).encode())

    def batch(self, count: int = 10, **fields: Any) -> str:
        return str(self.create(self.upload(lines(count, **fields))["id"])["id"])

    def read(self, batch_id: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
        """The batch, the lines of its output file, those of its error file."""
        told = self.call("GET", f"/batches/{batch_id}")
        files = [told[f"{kind}_file_id"] for kind in ("output", "error")]
        output, errors = ([] if one is None else self.call("GET", f"/files/{one}/content") for one in files)
        return told, output, errors


def lines(count: int, **fields: Any) -> bytes:
    made = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": CHAT_URL,
            "body": chat(f"Question {number}", **fields),
        }
        for number in range(count)
    ]
    return b"\n".join(json.dumps(line).encode() for line in made)


def test_a_batch_is_charged_line_by_line_at_its_share() -> None:
    """What the ledger took is the usage of the lines, at half the price; nothing before the work begins."""
    desk = Desk()
    batch_id = desk.batch()
    assert 0 == desk.gateway.ledger.count
    desk.now += HOUR / 2
    told, output, _ = desk.read(batch_id)
    assert ("in_progress", None, []) == (told["status"], told["output_file_id"], output)
    assert 5 == desk.gateway.ledger.count == told["request_counts"]["completed"]
    desk.now += HOUR
    told, output, errors = desk.read(batch_id)
    assert ("completed", 10, []) == (told["status"], len(output), errors)
    model = desk.gateway.settings.models["gpt-5.4"]
    usages = [line["response"]["body"]["usage"] for line in output]
    price_in, price_out = (pico_per_token(price) for price in (model.input_per_mtok, model.output_per_mtok))
    dear = sum(use["prompt_tokens"] * price_in + use["completion_tokens"] * price_out for use in usages)
    assert dear == 2 * desk.gateway.ledger.charged_pico
    assert {f"r{number}" for number in range(10)} == {entry.custom_id for entry in desk.gateway.ledger.entries}


@pytest.mark.parametrize(
    ("faults", "status", "output_lines", "error_lines", "charged"),
    [
        ({"missing": 1}, "completed", 0, 0, 10),
        ({"doubled": 1}, "completed", 20, 0, 10),
        ({"expired": 0.3}, "expired", 7, 3, 7),
        ({"failed_lines": 1}, "completed", 0, 10, 0),
        ({"line_errors": 1}, "completed", 0, 10, 0),
    ],
)
def test_what_a_fault_takes_from_the_files_is_in_the_books(
    faults: dict[str, float], status: str, output_lines: int, error_lines: int, charged: int
) -> None:
    """Missing lines are charged, doubled ones once, those that expire not; each of the ten is accounted for."""
    desk = Desk(batch_faults=faults)
    batch_id = desk.batch()
    desk.now += 2 * HOUR
    told, output, errors = desk.read(batch_id)
    assert (status, output_lines, error_lines) == (told["status"], len(output), len(errors))
    assert charged == desk.gateway.ledger.count


def test_shuffled_lines_are_the_same_lines() -> None:
    """Another order, nothing lost."""
    desk = Desk(batch_faults={"shuffled": 1})
    batch_id = desk.batch(40)
    desk.now += 2 * HOUR
    found = [line["custom_id"] for line in desk.read(batch_id)[1]]
    assert (sorted(found), False) == (sorted(f"r{number}" for number in range(40)), found == sorted(found))


def test_a_create_whose_reply_is_lost_runs_and_is_found_by_its_file() -> None:
    """The connection breaks, the batch is there: the list names its input file, once it has caught up."""
    desk = Desk(batch_faults={"create_lost": 1}, batch_list_lag_seconds=10)
    file_id = desk.upload(lines(3))["id"]
    assert desk.create(file_id) is None
    assert [] == desk.call("GET", "/batches")["data"]
    desk.now += 11
    assert [file_id] == [one["input_file_id"] for one in desk.call("GET", "/batches")["data"]]


def test_a_create_that_fails_leaves_no_batch() -> None:
    """A 500 with nothing behind it."""
    desk = Desk(batch_faults={"create_failed": 1})
    assert "error" in desk.create(desk.upload(lines(3))["id"])
    assert [] == desk.call("GET", "/batches")["data"]


def test_an_upload_whose_reply_is_lost_is_kept() -> None:
    """The file is in the list; it cost nothing."""
    desk = Desk(batch_faults={"upload_lost": 1})
    assert desk.upload(lines(3)) is None
    assert 1 == len(desk.call("GET", "/files")["data"])


def test_a_cancel_races_with_the_work() -> None:
    """What is done until the cancel takes hold is charged and in the output file; the rest is in no file."""
    desk = Desk(batch_cancel_seconds=HOUR / 4)
    batch_id = desk.batch()
    desk.now += HOUR / 2
    assert "cancelling" == desk.call("POST", f"/batches/{batch_id}/cancel", b"{}")["status"]
    desk.now += HOUR / 4
    told, output, errors = desk.read(batch_id)
    assert ("cancelled", 8, 0, 8) == (told["status"], len(output), len(errors), desk.gateway.ledger.count)
    assert {"total": 10, "completed": 8, "failed": 0} == told["request_counts"]
    assert "error" in desk.call("POST", f"/batches/{batch_id}/cancel", b"{}")


def test_a_cancel_that_comes_too_late_changes_nothing() -> None:
    """The batch is over before the cancel takes hold."""
    desk = Desk(batch_cancel_seconds=HOUR)
    batch_id = desk.batch()
    desk.now += HOUR * 0.95
    desk.call("POST", f"/batches/{batch_id}/cancel", b"{}")
    desk.now += HOUR
    told, output, _ = desk.read(batch_id)
    assert ("completed", 10) == (told["status"], len(output))


def test_too_many_enqueued_tokens_fail_a_batch_and_cost_nothing() -> None:
    """Those that wait already count; the failed batch says so and leaves no file."""
    desk = Desk(batch_enqueued_tokens=100)
    first, second = desk.batch(8), desk.batch(8)
    desk.now += HOUR * 0.2
    told = [desk.read(one)[0] for one in (first, second)]
    assert ["in_progress", "failed"] == [one["status"] for one in told]
    assert "token_limit_exceeded" == told[1]["errors"]["data"][0]["code"]
    desk.now += HOUR
    assert 8 == desk.read(first)[0]["request_counts"]["completed"] == desk.gateway.ledger.count


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"{", "invalid_json_line"),
        (lines(1) + b"\n" + lines(1), "duplicate_custom_id"),
        (lines(1).replace(b"/v1/chat", b"/v1/other"), "mismatched_url"),
        (lines(1).replace(b"POST", b"GET"), "invalid_method"),
        (lines(1, model="gpt-9"), "model_not_found"),
        (lines(1) + b"\n" + lines(2, model="gpt-5.4-mini").splitlines()[1], "mismatched_model"),
        (lines(11), "too_many_tasks"),
    ],
)
def test_a_file_that_is_no_batch_fails_in_validation(content: bytes, code: str) -> None:
    """Each mistake by its code; nothing is done."""
    desk = Desk(batch_most_requests=10)
    batch_id = desk.create(desk.upload(content)["id"])["id"]
    desk.now += HOUR
    told = desk.read(batch_id)[0]
    assert ("failed", code, 0) == (told["status"], told["errors"]["data"][0]["code"], desk.gateway.ledger.count)


def test_an_output_that_is_gone_is_404() -> None:
    """The batch still names it."""
    desk = Desk(batch_faults={"output_gone": 1})
    batch_id = desk.batch()
    desk.now += 2 * HOUR
    told = desk.call("GET", f"/batches/{batch_id}")
    assert "error" in desk.call("GET", f"/files/{told['output_file_id']}/content")


def test_what_one_key_brought_no_other_sees() -> None:
    """Files and batches belong to their account."""
    desk = Desk(keys={"one": "k1", "two": "k2"})
    file_id = desk.upload(lines(1), authorization="Bearer k1")["id"]
    assert "error" in desk.call("GET", f"/files/{file_id}", authorization="Bearer k2")
    assert [] == desk.call("GET", "/files", authorization="Bearer k2")["data"]
    assert "error" in desk.call("GET", f"/files/{file_id}", authorization="Bearer k3")


@pytest.mark.parametrize("style", ["crun", "deepseek", "kie"])
def test_gateways_without_batches_say_404(style: str) -> None:
    """CRUN among them: no such call was found in its documentation."""
    desk = Desk(gateway_style=style)
    for path in ("/batches", "/files", "/messages/batches"):
        assert "message" in str(desk.call("GET", path))
        assert 404 in [int(status) for status in desk.gateway.stats.report()["statuses"]]


def inline(desk: Desk, style: str, count: int, **first: Any) -> Any:
    """What answers a batch of so many requests that go inline."""
    if style == "anthropic":
        asks = [{"custom_id": f"r{n}", "params": chat(f"Question {n}", max_tokens=60)} for n in range(count)]
        return desk.call("POST", "/messages/batches", json.dumps({"requests": asks}).encode())
    asks = [{"custom_id": f"r{n}", "body": {"messages": chat(f"Question {n}")["messages"]}} for n in range(count)]
    asked = {**first, "endpoint": CHAT_URL, "model": "gpt-5.4", "requests": asks}
    return desk.call("POST", "/batches", json.dumps(asked).encode())


def test_openrouters_batch_has_its_results_within_and_by_pages() -> None:
    """Charged line by line at the share; the list has no results; deleted once it is over, and not before."""
    desk = Desk(gateway_style="openrouter", batch_faults={"expired": 0.2})
    made = inline(desk, "openrouter", 10)
    assert ("validating", 10, None) == (made["status"], made["request_counts"]["total"], made["results"])
    assert "error" in desk.call("DELETE", f"/batches/{made['id']}")
    desk.now += 2 * HOUR
    told = desk.call("GET", f"/batches/{made['id']}")
    assert ("expired", 8, 10) == (told["status"], told["request_counts"]["completed"], len(told["results"]))
    assert 8 == desk.gateway.ledger.count == sum(one["response"] is not None for one in told["results"])
    assert told["results"] == json.loads(json.dumps(desk.call("GET", f"/batches/{made['id']}/results")[0]["data"]))
    assert [None] == [one["results"] for one in desk.call("GET", "/batches")["data"]]
    assert "deletion" in desk.call("DELETE", f"/batches/{made['id']}")
    assert "error" in desk.call("GET", f"/batches/{made['id']}")


def test_openrouter_reads_the_model_before_the_requests() -> None:
    """Requests that come first are refused, as are two of one name and a body with another model."""
    desk = Desk(gateway_style="openrouter")
    assert "before requests" in str(inline(desk, "openrouter", 1, requests=[]))
    body = {"custom_id": "a", "body": {"model": "other"}}
    asked = {"endpoint": CHAT_URL, "model": "gpt-5.4", "requests": [body]}
    assert "the batch's model" in str(desk.call("POST", "/batches", json.dumps(asked).encode()))
    del body["body"]["model"]
    twice = {**asked, "requests": [body, body]}
    assert "unique" in str(desk.call("POST", "/batches", json.dumps(twice).encode()))
    assert 0 == len(desk.gateway.batches.desk.batches)


@pytest.mark.parametrize(("style", "path"), [("plain", "/messages/batches"), ("openrouter", "/batches")])
def test_inline_batches_know_the_same_faults(style: str, path: str) -> None:
    """Accepted without a reply, and told by the list when it has caught up; refused without a batch; gone."""
    form = "anthropic" if style == "plain" else style
    desk = Desk(gateway_style=style, batch_faults={"create_lost": 1}, batch_list_lag_seconds=10)
    assert inline(desk, form, 3) is None
    assert [] == desk.call("GET", path)["data"]
    desk.now += 11
    assert 1 == len(desk.call("GET", path)["data"])
    desk.gateway.change({"batch_faults": {"create_failed": 1}})
    assert "error" in inline(desk, form, 3)
    assert 1 == len(desk.call("GET", path)["data"])
    desk.gateway.change({"batch_faults": {"output_gone": 1}})
    desk.now += 2 * HOUR
    (batch,) = desk.call("GET", path)["data"]
    assert "error" in desk.call("GET", f"{path}/{batch['id']}/results")


def test_too_many_enqueued_tokens_are_said_in_each_forms_way() -> None:
    """Anthropic's refuses the call; OpenRouter's makes a batch that fails, in words without a code."""
    messages = Desk(batch_enqueued_tokens=5)
    assert "rate_limit_error" in str(inline(messages, "anthropic", 3))
    assert [] == messages.call("GET", "/messages/batches")["data"]
    openrouter = Desk(gateway_style="openrouter", batch_enqueued_tokens=5)
    made = inline(openrouter, "openrouter", 3)
    openrouter.now += HOUR
    told = openrouter.call("GET", f"/batches/{made['id']}")
    assert ("failed", None) == (told["status"], told["results"])
    assert "nqueued token" in told["error"]["message"]


def test_lists_go_page_by_page() -> None:
    """Newest first; every batch once."""
    desk = Desk()
    made = [desk.batch(1) for _ in range(5)]
    found: list[str] = []
    query, more = "limit=2", True
    while more:
        page = desk.call("GET", "/batches", query=query)
        found += [one["id"] for one in page["data"]]
        query, more = f"limit=2&after={page['last_id']}", page["has_more"]
    assert made[::-1] == found


def test_unknown_batch_faults_are_refused() -> None:
    """With the names that there are."""
    with pytest.raises(InputError, match="create_lost"):
        Desk(batch_faults={"lost": 1})


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorProcess]:
    settings = Settings(tokenizer="words", gateway_style="plain", batch_seconds=0.0)
    with SimulatorProcess(settings) as simulator:
        yield simulator


@pytest.fixture
def client(simulator: SimulatorProcess) -> Iterator[openai.OpenAI]:
    with openai_client(simulator) as client:
        yield client


@pytest.fixture
def claude(simulator: SimulatorProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic_client(simulator) as client:
        yield client


def test_the_openai_sdk_sends_and_reads_a_batch(client: openai.OpenAI, simulator: SimulatorProcess) -> None:
    """Upload, create, list, retrieve, read, delete: every reply passes the SDK's strict validation."""
    before = simulator.ledger()["count"]
    file = client.files.create(file=("in.jsonl", io.BytesIO(lines(4))), purpose="batch")
    assert (len(lines(4)), "processed") == (file.bytes, file.status)
    made = client.batches.create(
        input_file_id=file.id, endpoint=CHAT_URL, completion_window="24h", metadata={"run": "a"}
    )
    assert {"run": "a"} == made.metadata
    told = client.batches.retrieve(made.id)
    assert ("completed", file.id) == (told.status, told.input_file_id)
    assert made.id in [one.id for one in client.batches.list(limit=10)]
    assert told.output_file_id is not None and told.error_file_id is None
    output = [json.loads(line) for line in client.files.content(told.output_file_id).text.splitlines()]
    assert ["r0", "r1", "r2", "r3"] == [line["custom_id"] for line in output]
    assert before + 4 == simulator.ledger()["count"]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(made.id)


def test_the_openai_sdk_cancels(client: openai.OpenAI, simulator: SimulatorProcess) -> None:
    """A batch that still works is cancelled, and told so to the end."""
    simulator.change(batch_seconds=3600.0, batch_cancel_seconds=3600.0)
    file = client.files.create(file=("in.jsonl", io.BytesIO(lines(2))), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint=CHAT_URL, completion_window="24h")
    assert "cancelling" == client.batches.cancel(made.id).status
    simulator.change(batch_cancel_seconds=0.0)
    assert "cancelled" == client.batches.retrieve(made.id).status
    simulator.change(batch_seconds=0.0)


def test_the_anthropic_sdk_sends_and_reads_a_message_batch(claude: anthropic.Anthropic) -> None:
    """Create, retrieve, list, results, delete; a wrong request is an error of its own in the results."""
    params: Any = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
    made = claude.messages.batches.create(
        requests=[
            {"custom_id": "good", "params": params},
            {"custom_id": "bad", "params": {**params, "max_tokens": 0}},
        ]
    )
    assert "in_progress" == made.processing_status
    told = claude.messages.batches.retrieve(made.id)
    assert ("ended", 1, 1) == (told.processing_status, told.request_counts.succeeded, told.request_counts.errored)
    assert made.id in [one.id for one in claude.messages.batches.list(limit=10)]
    results = {one.custom_id: one.result for one in claude.messages.batches.results(made.id)}
    assert {"good": "succeeded", "bad": "errored"} == {name: one.type for name, one in results.items()}
    assert made.id == claude.messages.batches.delete(made.id).id


def test_the_anthropic_sdk_cancels(claude: anthropic.Anthropic, simulator: SimulatorProcess) -> None:
    """What was not done yet is canceled, request by request."""
    simulator.change(batch_seconds=3600.0, batch_cancel_seconds=3600.0)
    params: Any = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
    made = claude.messages.batches.create(requests=[{"custom_id": "one", "params": params}])
    assert "canceling" == claude.messages.batches.cancel(made.id).processing_status
    simulator.change(batch_cancel_seconds=0.0)
    told = claude.messages.batches.retrieve(made.id)
    assert ("ended", 1) == (told.processing_status, told.request_counts.canceled)
    assert ["canceled"] == [one.result.type for one in claude.messages.batches.results(made.id)]
    simulator.change(batch_seconds=0.0)


def test_batches_cost_what_the_share_says() -> None:
    """A quarter off, as some gateways have it, is a setting."""
    dear, cheap = Desk(batch_price_share=Decimal(1)), Desk(batch_price_share=Decimal("0.75"))
    for desk in (dear, cheap):
        desk.batch(5)
        desk.now += 2 * HOUR
        desk.call("GET", "/batches")
    assert Decimal("0.75") * dear.gateway.ledger.charged_pico == cheap.gateway.ledger.charged_pico
