"""Laws of the simulated gateway: its settings, refusals, limits, streams, and how it is run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_kit import BODIES, CHAT, KEY, QUESTION, chat, gateway, parsed, send, text_of

from crun_batch.errors import InputError
from crun_batch.simulator import Settings, Simulator, SimulatorProcess, read_settings, start_simulator
from crun_batch.simulator.command import main_settings, parser
from crun_batch.simulator.connection import ReceivedRequest
from crun_batch.simulator.limits import Bucket
from crun_batch.simulator.settings import PICO, write_settings


def test_an_unknown_setting_is_refused_with_the_nearest_known_one() -> None:
    """A misspelt setting is never ignored."""
    with pytest.raises(InputError, match="did you mean 'latency_seconds'"):
        read_settings({"latency_second": 1})


@pytest.mark.parametrize(
    ("mapping", "place"),
    [
        ({"latency_seconds": -1}, "latency_seconds"),
        ({"gateway_style": "azure"}, "gateway_style"),
        ({"models": {"m": {"input_per_mtok": "0.0000001"}}}, "models.m.input_per_mtok"),
        ({"models": {"m": {"input_per_mtok": -1}}}, "models.m.input_per_mtok"),
        ({"models": {"m": {"inputs": 1}}}, "inputs"),
    ],
)
def test_a_value_that_does_not_fit_is_named(mapping: dict[str, Any], place: str) -> None:
    """The complaint about a setting says which one."""
    with pytest.raises(InputError, match=place.replace(".", r"\.")):
        read_settings(mapping)


def test_unknown_faults_and_rates_above_one_are_refused() -> None:
    """A fault that does not exist would otherwise just never hit."""
    with pytest.raises(InputError, match="unknown fault 'explode'"):
        gateway(faults={"explode": 0.1})
    with pytest.raises(InputError, match="above 1"):
        gateway(faults={"500": 0.6, "503": 0.6})


def test_settings_survive_json() -> None:
    """What goes to a child process arrives as it was."""
    changed = read_settings(
        {"balance_credits": "12.25", "models": {"m": {"accuracy": 0.5}}, "faults": {"500": 0.1}}
    )
    assert changed == read_settings(json.loads(write_settings(changed)))


def test_every_setting_is_an_option_with_words() -> None:
    """The command line is made from the settings, so none is missing and each is explained."""
    options = {action.dest: action.help for action in parser()._actions}
    assert set(Settings.__struct_fields__) <= set(options)
    assert all(options.values())


def test_options_win_over_the_settings_file(tmp_path: Path) -> None:
    """File, then JSON text, then single options."""
    path = tmp_path / "settings.json"
    path.write_text('{"seed": 1, "concurrency": 2, "port": 3}')
    arguments = ["--settings", str(path), "--settings-json", '{"concurrency": 4, "port": 5}', "--port", "6"]
    read, until_stdin_closes, _ = main_settings([*arguments, "--faults", '{"500": 0.5}', "--answer-style", "echo"])
    assert (1, 4, 6, {"500": 0.5}, "echo") == (
        read.seed,
        read.concurrency,
        read.port,
        read.faults,
        read.answer_style,
    )
    assert not until_stdin_closes


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic ak_sim"}])
def test_a_wrong_key_is_401_in_the_words_of_the_endpoint(path: str, headers: dict[str, str]) -> None:
    """No key, a wrong key, a wrong scheme."""
    at = gateway()
    status, _, reply = send(at, path, BODIES[path], headers)
    assert (401, "authentication_error") == (status, reply["error"]["type"])
    assert (path == "/messages") == (reply.get("type") == "error")
    assert 0 == at.ledger.count


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("headers", [{"x-api-key": "ak_sim_1"}, {"authorization": "bearer ak_sim_1"}])
def test_both_key_headers_open_every_endpoint(path: str, headers: dict[str, str]) -> None:
    """Authorization: Bearer and X-API-KEY; the balance is documented with the latter only."""
    assert 200 == send(gateway(), path, BODIES[path], headers)[0]
    expected = 200 if "x-api-key" in headers else 401
    assert expected == send(gateway(), "/client/account/balance", headers=headers)[0]
    assert 200 == send(gateway(balance_key="any"), "/client/account/balance", headers=headers)[0]


@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_model_is_model_not_found_in_openai_words_everywhere(path: str) -> None:
    """Also on /messages; the status is a setting."""
    body = {**BODIES[path], "model": "gpt-9"}
    for status in (400, 404):
        replied, _, reply = send(gateway(unknown_model_status=status), path, body)
        assert (status, "model_not_found") == (replied, reply["error"]["code"])
        assert "type" not in reply


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/chat/completions", {"messages": None}, "messages"),
        ("/chat/completions", {"messages": []}, "messages"),
        ("/chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ("/chat/completions", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            "/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            "messages[0].content",
        ),
        ("/chat/completions", {"max_tokens": "12"}, "max_tokens"),
        ("/chat/completions", {"max_tokens": True}, "max_tokens"),
        ("/chat/completions", {"max_tokens": 0}, "max_tokens"),
        ("/chat/completions", {"temperature": 3}, "temperature"),
        ("/chat/completions", {"stream": 1}, "stream"),
        ("/chat/completions", {"n": 2}, "n"),
        ("/chat/completions", {"response_format": {"type": "json_schema"}}, "response_format"),
        ("/responses", {"input": None}, "input"),
        ("/responses", {"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ("/messages", {"max_tokens": None}, "max_tokens"),
        ("/messages", {"messages": [{"role": "system", "content": "x"}]}, "messages.0.role"),
        ("/completions", {"prompt": None}, "prompt"),
        ("/completions", {"stream": True}, "stream"),
        ("/completions", {"stream": 1}, "stream"),
        ("/completions", {"model": None}, "model"),
    ],
)
def test_an_invalid_body_is_refused_in_the_words_of_the_endpoint(
    path: str, change: dict[str, Any], param: str
) -> None:
    """Missing, empty, of the wrong type, out of range: named, not charged; 400 or, by setting, 422."""
    body = {name: value for name, value in {**BODIES[path], **change}.items() if value is not None}
    for status in (400, 422):
        at = gateway(invalid_status=status)
        replied, _, reply = send(at, path, body)
        assert (status, "invalid_request_error", 0) == (replied, reply["error"]["type"], at.ledger.count)
        assert param.split("[")[0].split(".")[0] in reply["error"]["message"]
        if path != "/messages":
            assert param == reply["error"]["param"]


def test_too_long_a_prompt_is_refused() -> None:
    """The context limit of the model."""
    status, _, reply = send(gateway(models={"m": {"context_tokens": 50}}), CHAT, chat("duck " * 60, model="m"))
    assert (400, "context_length_exceeded") == (status, reply["error"]["code"])


def test_unknown_paths_are_404_and_wrong_methods_405_with_what_is_allowed() -> None:
    """HTTP's own refusals."""
    assert 404 == send(gateway(), "/embeddings", {})[0]
    assert 404 == send(gateway(), "/key")[0]
    status, headers, _ = send(gateway(), CHAT)
    assert (405, "POST") == (status, headers["allow"])
    status, headers, _ = send(gateway(), "/models", {})
    assert (405, "GET, HEAD") == (status, headers["allow"])


@given(
    st.integers(1, 600),
    st.floats(1, 60),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5)), min_size=1, max_size=60),
)
@settings(deadline=None, max_examples=100)
def test_a_bucket_gives_no_more_than_its_rate_and_says_when_to_come_again(
    per_minute: int, burst_seconds: float, visits: list[tuple[float, int]]
) -> None:
    """Never more than the burst plus rate x time; who comes after the wait that was told is served."""
    now, given_away = 0.0, 0.0
    bucket = Bucket(per_minute, burst_seconds, now)
    most = max(1.0, per_minute / 60 * burst_seconds)
    for pause, amount in visits:
        now += pause
        bucket.refill(now)
        amount = min(amount, int(most))
        now += bucket.wait_seconds(amount) * 1.0001
        bucket.refill(now)
        assert 0 == pytest.approx(bucket.wait_seconds(amount), abs=1e-6)
        bucket.take(amount)
        given_away += amount
        assert given_away <= most + per_minute / 60 * now + 1e-3


@pytest.mark.parametrize(("path", "prefix"), [(CHAT, "x-ratelimit-limit-"), ("/messages", "anthropic-ratelimit-")])
def test_above_the_limits_it_is_429_with_retry_after(path: str, prefix: str) -> None:
    """Requests and tokens per minute, per key and model; not charged; limit headers on request."""
    at = gateway(requests_per_minute=3, rate_limit_headers=True)
    replies = [send(at, path, BODIES[path]) for _ in range(5)]
    assert [200, 200, 200, 429, 429] == [status for status, _, _ in replies]
    assert 1 <= int(replies[3][1]["retry-after"]) <= 20
    assert any(name.startswith(prefix) for name in replies[0][1])
    assert 3 == at.ledger.count
    assert 2 == at.stats.report()["rejections"]["requests"]
    assert 200 == send(at, path, {**BODIES[path], "model": "gpt-5.4-mini"})[0]


def test_tokens_per_minute_count_input_and_output() -> None:
    """A token limit stops long requests that a request limit lets through."""
    at = gateway(tokens_per_minute=300, output_tokens_sigma=0)
    replies = [send(at, CHAT, chat(f"{QUESTION} {n}")) for n in range(10)]
    used = sum(reply["usage"]["total_tokens"] for status, _, reply in replies if status == 200)
    assert 200 <= used <= 300
    assert 429 == replies[-1][0]


def test_too_many_at_once_are_429() -> None:
    """Concurrency is counted until the reply is delivered."""
    at = gateway(concurrency=2, latency_seconds=5)
    request = ReceivedRequest("POST", "/api/v1/chat/completions", "", KEY, json.dumps(chat("x")).encode())
    deliveries = [at.handle(request) for _ in range(3)]
    statuses = [parsed(b"".join(data for _, data in delivery.steps))[0] for delivery in deliveries]
    assert [200, 200, 429] == statuses
    assert deliveries[0].finished is not None
    deliveries[0].finished()
    assert 5 == at.handle(request).steps[0][0]
    assert 2 == at.stats.max_in_flight


def test_crun_streams_put_the_usage_into_the_last_chunk_with_choices() -> None:
    """Middle chunks have no id and no time; usage is always there."""
    stream = send(gateway(), CHAT, chat(QUESTION, stream=True))[2]
    *events, last = stream.strip().split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "data: [DONE]" == last
    assert chunks[-1]["choices"] and chunks[-1]["usage"]["completion_tokens"] > 0
    assert {("", 0)} == {(chunk["id"], chunk["created"]) for chunk in chunks[1:-1]}
    whole = send(gateway(), CHAT, chat(QUESTION))[2]
    assert text_of(CHAT, whole) == "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert whole["usage"] == chunks[-1]["usage"]


def test_openai_streams_put_the_usage_on_request_into_a_chunk_of_its_own() -> None:
    """Without `include_usage` there is none."""
    at = gateway(stream_style="openai")
    bare = send(at, CHAT, chat(QUESTION, stream=True))[2]
    asked = send(at, CHAT, chat(QUESTION, stream=True, stream_options={"include_usage": True}))[2]
    assert '"usage"' not in bare
    last = json.loads(asked.strip().split("\n\n")[-2].removeprefix("data: "))
    assert [] == last["choices"]
    assert last["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("style", "path", "left_usd"),
    [
        ("openrouter", "/key", lambda reply: reply["data"]["limit_remaining"]),
        ("openrouter", "/credits", lambda reply: reply["data"]["total_credits"] - reply["data"]["total_usage"]),
        ("litellm", "/key/info", lambda reply: reply["info"]["max_budget"] - reply["info"]["spend"]),
        ("deepseek", "/user/balance", lambda reply: Decimal(reply["balance_infos"][0]["total_balance"])),
        ("kie", "/chat/credit", lambda reply: reply["data"] / Decimal(200)),
    ],
)
def test_other_gateways_tell_their_credit_in_their_own_way(style: str, path: str, left_usd: Any) -> None:
    """Dollars where they speak dollars; kie's credits like CRUN's."""
    at = gateway(gateway_style=style)
    send(at, CHAT, chat(QUESTION))
    reply = send(at, path)[2]
    assert Decimal(at.ledger.balance_pico) / PICO / 200 == left_usd(reply)
    assert 404 == send(at, "/client/account/balance", headers={"x-api-key": "ak_sim"})[0]


def test_openrouter_and_litellm_state_prices_and_the_cost_of_a_reply() -> None:
    """Prices per token x usage = the cost that the reply states = the charge."""
    at = gateway(gateway_style="openrouter")
    models = {model["id"]: model["pricing"] for model in send(at, "/models")[2]["data"]}
    usage = send(at, CHAT, chat(QUESTION))[2]["usage"]
    price = {name: Decimal(text) for name, text in models["gpt-5.4"].items()}
    expected = usage["prompt_tokens"] * price["prompt"] + usage["completion_tokens"] * price["completion"]
    assert expected == usage["cost"] == Decimal(at.ledger.charged_pico) / PICO / 200
    at = gateway(gateway_style="litellm")
    info = {model["model_name"]: model["model_info"] for model in send(at, "/model/info")[2]["data"]}["gpt-5.4"]
    _, headers, reply = send(at, CHAT, chat(QUESTION))
    usage = reply["usage"]
    expected = (
        usage["prompt_tokens"] * info["input_cost_per_token"]
        + usage["completion_tokens"] * info["output_cost_per_token"]
    )
    assert expected == Decimal(headers["x-litellm-response-cost"])


def test_a_plain_gateway_has_models_and_no_credit() -> None:
    """As OpenAI, Anthropic, vLLM: budget.credits has nothing to read there."""
    at = gateway(gateway_style="plain")
    assert {"id", "object", "created", "owned_by"} == set(send(at, "/models")[2]["data"][0])
    assert 404 == send(at, "/key")[0]


def test_books_and_knobs_are_open_while_it_runs() -> None:
    """Ledger with entries, counters, and settings that take effect at once; what is wrong changes nothing."""
    with (
        start_simulator(tokenizer="words", balance_credits=10) as simulator,
        httpx.Client(trust_env=False) as client,
    ):
        for n in range(3):
            client.post(f"{simulator.base_url}/chat/completions", json=chat(f"{n}"), headers=KEY)
        ledger = simulator.ledger(entries=True, after=0)
        assert [1, 2] == [entry["serial"] for entry in ledger["entries"]]
        assert 10 == Decimal(ledger["charge_credits"]) + Decimal(ledger["balance_credits"])
        simulator.change(balance_credits=0, out_of_credit="anthropic")
        assert (
            402 == client.post(f"{simulator.base_url}/chat/completions", json=chat("x"), headers=KEY).status_code
        )
        with pytest.raises(InputError, match="did you mean 'concurrency'"):
            simulator.change(concurency=3)
        with pytest.raises(InputError, match="port cannot change"):
            simulator.change(port=3)
        stats = simulator.stats()
        assert {"200": 3, "402": 1} == stats["statuses"]
        assert ({"credit": 1}, 0) == (stats["rejections"], stats["in_flight"])


def test_the_child_ends_with_its_parent_and_not_by_a_ctrl_c() -> None:
    """A killed parent leaves no simulator behind; Ctrl-C goes to the parent's process group only."""
    code = (
        "import sys, time; from crun_batch.simulator import start_simulator\n"
        "s = start_simulator(tokenizer='words'); print(s.pid, s.base_url, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, process_group=0) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().decode().split()
        assert os.getpgid(int(pid)) != os.getpgid(parent.pid)
        with httpx.Client(trust_env=False, headers=KEY) as client:
            assert 200 == client.get(f"{url}/models").status_code
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    with pytest.raises(OSError, match=r"refused|reset"):
        while time.monotonic() < deadline:
            socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0])), timeout=1).close()
            time.sleep(0.02)


def test_settings_that_the_child_refuses_are_said_and_no_child_is_left() -> None:
    """A simulator that does not start is an error, not a wait."""
    simulator = SimulatorProcess(Settings(faults={"explode": 1.0}))
    with pytest.raises(RuntimeError, match="did not start"):
        simulator.start()


def test_a_port_that_is_taken_is_said_and_no_child_is_started() -> None:
    """The port is taken by the one who starts it: the mistake is in the settings, and told once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError) as caught:
            SimulatorProcess(Settings(port=port)).start()
    assert f"the simulator cannot listen on 127.0.0.1, port {port}: Address already in use" == str(caught.value)


def test_in_a_running_loop_it_serves_many_connections_at_once() -> None:
    """`async with Simulator()`: the 50th is taken while the first waits for its answer; and all ports close."""

    async def main() -> str:
        settings = Settings(tokenizer="words", latency_seconds=3600)
        async with Simulator(settings) as simulator, httpx.AsyncClient(trust_env=False, timeout=60) as client:
            url = f"{simulator.base_url}/chat/completions"
            posts = [asyncio.create_task(client.post(url, json=chat(f"{n}"), headers=KEY)) for n in range(50)]
            async with asyncio.timeout(50):
                while simulator.gateway.stats.in_flight < 50:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.01)
            for post in posts:
                post.cancel()
            await asyncio.gather(*posts, return_exceptions=True)
            return simulator.base_url

    url = asyncio.run(main())
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0])), timeout=1)


def test_a_client_that_leaves_is_charged_and_no_longer_in_flight() -> None:
    """A POST that timed out was billed all the same."""

    async def main() -> None:
        async with Simulator(Settings(tokenizer="words", latency_seconds=30)) as simulator:
            async with httpx.AsyncClient(trust_env=False, timeout=0.1) as client:
                with pytest.raises(httpx.ReadTimeout):
                    await client.post(f"{simulator.base_url}/chat/completions", json=chat("x"), headers=KEY)
            stats = simulator.gateway.stats
            await asyncio.sleep(0.05)
            assert (1, 0, 1) == (stats.max_in_flight, stats.in_flight, simulator.gateway.ledger.count)

    asyncio.run(main())
