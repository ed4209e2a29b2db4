"""A gateway that was never reached stops the run with its cause in words; no row is given up for it."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fault_server import FaultServer, ProxyServer, Way, refusing_url
from test_ways import AlertingHandler

import crun_batch
from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.control import ControlClient
from crun_batch.gateway.http.wire import open_wire
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.retry import Again, GiveUp, Halt, RetryPolicy, decide
from crun_batch.preflight import gateway_facts
from crun_batch.records import Failure, Fault, Response, Tries

ROWS = 12


pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def job(url: str, folder: Path, budget_credits: str = "off", **endpoint: Any) -> crun_batch.Job:
    base_url = url.replace("/chat", "")
    return crun_batch.Job(
        name="reach",
        input={"id": "id"},
        endpoint={"base_url": base_url, "auth": "none", **endpoint},
        model="m",
        prompt={"user": "{{ text }}"},
        budget={"credits": budget_credits},
        limits={"concurrency": 4, "max_attempts": 2},
        output={"dir": str(folder / "run")},
    )


def run(job: crun_batch.Job) -> crun_batch.Run:
    table = pl.DataFrame({"id": range(ROWS), "text": ["t"] * ROWS})
    return crun_batch.run(job, table=table, handle_signals=False)


def goes_on_to_its_end(server: FaultServer, folder: Path, **endpoint: Any) -> bool:
    """Whether the same run, now pointed at a gateway that answers, finishes every row."""
    done = run(job(server.url("chat"), folder, **endpoint))
    return (0, ROWS) == (done.exit_code, done.summary["rows"]["ok"])


CAUSES = {
    "ca": "the certificate of 127.0.0.1 is not trusted (unable to get local issuer certificate): set "
    "SSL_CERT_FILE or endpoint.ca_file",
    "refused": "Connection refused",
    "no_tls": "does not speak TLS: write http://",
    "alert": "that port speaks TLS, not plain HTTP: write https://",
    "nginx": "The plain HTTP request was sent to HTTPS port",
    "go": "Client sent an HTTP request to an HTTPS server.",
    "closes": "the connection was closed before the reply was whole",
    "no_http": "no HTTP reply",
    "password": "(HTTPS_PROXY) does not accept the user and the password (HTTP 407)",
    "plain_password": "HTTP 407: a proxy does not accept the user and the password",
    "no_proxy": "(HTTPS_PROXY): Connection refused",
    "name": "no host has the name gateway.invalid",
    "proxy_name": "the proxy proxy.invalid:3128 (HTTPS_PROXY): no host of that name",
}


@contextmanager
def unreachable(cause: str, server: FaultServer, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a gateway that cannot be reached for that reason."""
    url = server.url("chat", "https")
    if cause == "ca":
        yield url
    elif cause == "refused":
        with refusing_url() as refusing:
            yield refusing + "/chat"
    elif cause == "no_tls":
        yield server.url("garbage_at_once").replace("http://", "https://")
    elif cause == "alert":
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), AlertingHandler) as alerting:
            threading.Thread(target=alerting.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{alerting.server_address[1]}/v1"
            alerting.shutdown()
    elif cause in ("nginx", "go", "closes", "no_http"):
        names = {"closes": "close_without_reply", "no_http": "garbage"}
        yield server.url(names.get(cause, f"tls_wanted_{cause}"))
    elif cause == "plain_password":
        place = server.url("proxy_wants_password").removeprefix("http://").partition("/")[0]
        patch.setenv("HTTP_PROXY", f"http://user:wrong@{place}")
        yield "http://gateway.invalid/v1"
    elif cause == "name":
        yield "https://gateway.invalid/v1"
    elif cause == "proxy_name":
        patch.setenv("HTTPS_PROXY", "http://user:wrong@proxy.invalid:3128")
        yield "https://gateway.invalid/v1"
    else:
        port = 9 if cause == "no_proxy" else None
        with ProxyServer(password="right") as proxy:
            patch.setenv("HTTPS_PROXY", f"http://user:wrong@127.0.0.1:{port or proxy.port}")
            yield server.url("chat", "tunnel")


@pytest.mark.parametrize("cause", CAUSES)
def test_a_gateway_that_was_never_reached_stops_the_run_and_leaves_every_row_open(
    cause: str, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 5 with the cause in words; the same run then goes on, and every row gets its answer."""
    with monkeypatch.context() as patch, unreachable(cause, server, patch) as url:
        done = run(job(url, tmp_path))
    assert 5 == done.exit_code, done.stop_reason
    assert CAUSES[cause] in (done.stop_reason or "")
    assert "wrong" not in (done.stop_reason or "")
    assert ROWS == done.summary["rows"]["open"]
    assert 0 == done.results().collect().height
    assert goes_on_to_its_end(server, tmp_path)


def test_a_jobs_own_ca_reaches_it(server: FaultServer, tmp_path: Path) -> None:
    """endpoint.ca_file is relative to the job file; control calls and requests trust it alike."""
    server.write_ca(tmp_path / "ca.pem")
    (tmp_path / "job.yaml").write_text(
        f"""
name: own-ca
input: {{table: rows.csv, id: id}}
endpoint: {{base_url: "{server.url("chat", "https")}", auth: none, ca_file: ca.pem}}
model: m
prompt: {{user: "{{{{ text }}}}"}}
budget: {{credits: warn}}
output: {{dir: "{tmp_path / "run"}"}}
"""
    )
    (tmp_path / "rows.csv").write_text("id,text\n1,a\n2,b\n")
    said: list[str] = []
    done = crun_batch.run(tmp_path / "job.yaml", handle_signals=False, say=said.append)
    assert (0, 2) == (done.exit_code, done.summary["rows"]["ok"])
    assert not [words for words in said if "trusted" in words]


def test_a_failed_balance_call_is_no_missing_one(server: FaultServer, tmp_path: Path) -> None:
    """What the gateway has is not concluded from what could not be read."""
    warning = {"budget.credits": "warn"}
    said: list[str] = []
    with refusing_url() as refusing:
        table = pl.DataFrame({"id": [1], "text": ["t"]})
        document = crun_batch.estimate(job(refusing, tmp_path).with_overrides(warning), table=table)
        crun_batch.run(
            job(refusing, tmp_path).with_overrides(warning), table=table, handle_signals=False, say=said.append
        )
    assert [words for words in said if "the balance cannot be read: " in words and "Connection refused" in words]
    assert "no balance call" not in f"{document} {said}"


@pytest.mark.parametrize("credits", ["require", "warn", "off"])
def test_an_estimate_offline_says_what_is_known_and_what_could_not_be_asked(credits: str, tmp_path: Path) -> None:
    """It sends nothing, so nothing refuses it; `run` does, where the balance must be read."""
    table = pl.DataFrame({"id": [1], "text": ["t"]})
    price = {"m": {"currency": "usd", "input_per_mtok": 1, "output_per_mtok": 2}}
    keys = {"budget.credits": credits, "prices.models": price, "params.max_output_tokens": 10}
    with refusing_url() as refusing:
        offline = job(refusing, tmp_path).with_overrides(keys)
        document = crun_batch.estimate(offline, table=table)
        if credits == "require":
            with pytest.raises(crun_batch.RefusedToStart, match="the balance cannot be read"):
                crun_batch.run(offline, table=table, handle_signals=False)
    said = [*(["the balance cannot be read: "] if credits != "off" else []), "the list of models cannot be read: "]
    assert document["cost_usd"]["high"] is not None
    assert sorted(said) == sorted(check.partition(": ")[0] + ": " for check in document["checks"])


@pytest.mark.parametrize("way", ["http", "https"])
def test_after_the_first_answer_a_lost_connection_is_a_retry(
    way: Way, server: FaultServer, tmp_path: Path
) -> None:
    """A gateway that has answered once exists: rows then fail as they do."""
    server.posts["answers_once"] = 0
    ca_file = server.write_ca(tmp_path / "ca.pem")
    done = run(job(server.url("answers_once", way), tmp_path, ca_file=str(ca_file)))
    assert "not reached" not in (done.stop_reason or "")
    assert done.results().collect().height > 0


LASTING = Failure("not_sent", "connection", "stop_unreached", "the certificate is not trusted")
LOST = Failure("not_sent", "connection", "retry", "Connection refused")
SLOW = Failure("unknown", "timeout", "retry", "no whole reply")
POLICY = RetryPolicy(max_attempts=2)


@pytest.mark.parametrize(
    ("failure", "counted", "was_reached", "expected"),
    [
        (LASTING, 0, False, Halt),
        (LASTING, 0, True, Again),
        (LASTING, 1, True, GiveUp),
        (LOST, 0, False, Again),
        (LOST, 1, False, Halt),
        (LOST, 1, True, GiveUp),
        (SLOW, 0, False, Again),
        (SLOW, 1, False, GiveUp),
    ],
)
def test_what_follows_a_failure_before_and_after_the_first_answer(
    failure: Failure, counted: int, was_reached: bool, expected: type
) -> None:
    decision = decide(
        failure,
        Tries(counted=counted),
        POLICY,
        lane_has_succeeded=False,
        lane_was_reached=was_reached,
        draw=0.5,
    )
    assert expected is type(decision)


@pytest.mark.parametrize("failure", [LOST, LASTING])
@pytest.mark.parametrize("draw", [0.0, 0.999])
def test_a_gateway_that_was_there_and_is_gone_for_less_than_a_minute_costs_no_row(
    failure: Failure, draw: float
) -> None:
    """It is started again, or the network comes back. Its first answer is waited for no longer than before."""

    def waits(*, was_reached: bool) -> list[float]:
        tries, waited = Tries(), []
        while True:
            decision = decide(
                failure,
                tries,
                RetryPolicy(),
                lane_has_succeeded=was_reached,
                lane_was_reached=was_reached,
                draw=draw,
            )
            if not isinstance(decision, Again):
                return waited
            waited.append(decision.delay_seconds)
            tries = decision.tries

    assert sum(waits(was_reached=True)) > 50 and 60 >= max(waits(was_reached=True))
    assert sum(waits(was_reached=False)) < 16


def test_what_cannot_have_been_read_is_rejected_not_unknown() -> None:
    """A TLS alert in answer to plain HTTP, a proxy's 407: nobody can have billed that."""
    alert = check_fault(Fault("unknown", "bad_reply", "that port speaks TLS", is_lasting=True))
    refused = check(PROTOCOLS["chat"], Response(407, {}, b""), stream=False)
    assert isinstance(refused, Failure)
    assert [("rejected", "stop_unreached")] * 2 == [(one.outcome, one.action) for one in (alert, refused)]


def test_a_proxy_s_refusal_is_told_whatever_its_page_says() -> None:
    """Its words alone lead to the gateway and its key; a proxy in the way is a variable of this machine."""
    page = b"<html><h1>Access denied</h1></html>"
    refused = check(PROTOCOLS["chat"], Response(407, {"content-type": "text/html"}, page), stream=False)
    assert isinstance(refused, Failure)
    assert "HTTP 407: Access denied; a proxy does not accept the user and the password" == refused.message


def test_a_control_call_that_will_fail_again_is_made_once(server: FaultServer) -> None:
    """An untrusted certificate is not waited for."""
    connections, slept = server.connections["chat"], []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def main() -> None:
        async with ControlClient(server.url("chat", "https"), {}, sleep=sleep) as gateway:
            await gateway.get(server.url("chat", "https"))

    asyncio.run(main())
    assert [] == slept
    assert server.connections["chat"] - connections <= 1


class SilentHandler(socketserver.BaseRequestHandler):
    """Takes what comes and answers only to what it was made for: `spoken` names it."""

    spoken = "nothing"

    def handle(self) -> None:
        came = self.request.recv(4096)
        if self.spoken == "http" and came.startswith((b"GET", b"POST", b"OPTIONS")):
            self.request.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        elif self.spoken == "http":  # a server of plain HTTP that waits for the end of a first line
            threading.Event().wait(20)
        elif self.spoken == "tls" and came.startswith(b"\x16\x03"):
            self.request.sendall(b"\x15\x03\x03\x00\x02\x02\x28")


@contextmanager
def speaking(spoken: str) -> Iterator[int]:
    """The port of a server that says nothing to whoever speaks otherwise."""
    handler = type("Handler", (SilentHandler,), {"spoken": spoken})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as serving:
        serving.daemon_threads = True
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_address[1]
        serving.shutdown()


WRONG_SCHEMES = {
    ("https", "http"): "does not speak TLS: write http://",
    ("http", "tls"): "that port speaks TLS, not plain HTTP: write https://",
}


@pytest.mark.parametrize("credits", ["require", "warn", "off"])
@pytest.mark.parametrize(("written", "spoken"), WRONG_SCHEMES)
def test_a_wrong_scheme_is_named_at_once_by_whatever_kind_of_server(
    written: str, spoken: str, credits: str, tmp_path: Path
) -> None:
    """One that is silent or hangs up is asked what it speaks: seconds, not one timeout after the other."""
    table = pl.DataFrame({"id": range(ROWS), "text": ["t"] * ROWS})
    began = time.monotonic()
    with speaking(spoken) as port:
        asked = job(f"{written}://127.0.0.1:{port}/v1", tmp_path).with_overrides({"budget.credits": credits})
        said: list[str] = []
        try:
            done = crun_batch.run(asked, table=table, handle_signals=False, say=said.append)
            assert (5, ROWS) == (done.exit_code, done.summary["rows"]["open"])
            words = done.stop_reason or ""
        except crun_batch.RefusedToStart as refusal:
            assert "require" == credits
            words = str(refusal)
    assert WRONG_SCHEMES[written, spoken] in words
    assert "ry again" not in words
    assert 1 >= sum("cannot be reached" in one for one in said)
    assert 8 > time.monotonic() - began


def test_a_port_that_says_nothing_is_told_from_one_that_is_not_there() -> None:
    """Whoever looks for the cause learns that the connection itself was taken."""

    async def main(port: int) -> Response | Fault:
        wire = open_wire(connections=1, urls=[], connect_timeout_seconds=2.5)
        found = await wire.post(f"https://127.0.0.1:{port}/v1", {}, b"{}", 10.0)
        await wire.close()
        return found

    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = asyncio.run(main(silent.getsockname()[1]))
    assert isinstance(found, Fault)
    assert "takes connections, but answers no TLS handshake" in found.message
    assert ("not_sent", "timeout", False) == (found.stage, found.kind, found.is_lasting)


@pytest.mark.parametrize(("credits", "what"), [("off", "its models"), ("warn", "its models and balance")])
@pytest.mark.parametrize("silent_seconds", [0.05, 5.0])
def test_a_gateway_that_is_long_silent_before_the_start_is_named(
    server: FaultServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    credits: str,
    what: str,
    silent_seconds: float,
) -> None:
    """Its models and its balance may be waited for for minutes: a terminal without a word looks hung."""

    async def slow(*_: object) -> gateway_facts.GatewayOffer:
        await asyncio.sleep(0.2)
        return gateway_facts.GatewayOffer()

    monkeypatch.setattr(gateway_facts, "SILENT_SECONDS", silent_seconds)
    monkeypatch.setattr(gateway_facts, "ask", slow)
    told: list[str] = []
    asked = job(server.url("chat"), tmp_path, credits)
    table = pl.DataFrame({"id": [1], "text": ["t"]})
    crun_batch.run(asked, table=table, handle_signals=False, say=told.append)
    sentence = f"still asking {asked.endpoint.base_url} for {what}; nothing is sent yet"

    assert ([sentence] if silent_seconds < 0.2 else []) == [one for one in told if "still asking" in one]


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ("no whole reply within 15 s", "Try again"),
        ("no connection: Connection refused", "Is endpoint.base_url right? Then try again"),
        (
            "no connection: the proxy 127.0.0.1:9 (HTTP_PROXY): Connection refused",
            "Is that proxy right? Then try again",
        ),
    ],
)
def test_who_cannot_be_reached_is_who_is_to_be_looked_at(fault: str, advice: str) -> None:
    """A proxy's variable, or the job's base URL."""
    assert advice == gateway_facts._once_more(fault)
