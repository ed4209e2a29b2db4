"""The control calls: models, prices and balances of every style of gateway, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fault_server import FaultServer, refusing_url
from hypothesis import given, settings
from hypothesis import strategies as st

from crun_batch.errors import InputError
from crun_batch.gateway.balance import FORMS, Balance, amount_of, least, styles_for
from crun_batch.gateway.control import (
    ControlClient,
    ControlFault,
    ModelInfo,
    PriceQuote,
    auth_headers,
    list_models,
    read_balance,
)
from crun_batch.gateway.quotes import litellm_quotes, model_infos, openrouter_quote
from crun_batch.preflight.gateway_facts import GatewayFacts, GatewayOffer, unlisted_models

KEY = "ak_0123456789abcdefMARKED9876543210"
CRUN = "https://api.crun.ai/api/v1"
UNKNOWN = "https://models.example/v1"
OPENAI_LIST = {"object": "list", "data": [{"id": "gpt-5.4", "object": "model"}, {"id": "claude-sonnet-4-5"}]}


class Script:
    """A scripted gateway: path -> (status, JSON or text), a reply, or a list of these, one a call; else 404."""

    def __init__(self, replies: dict[str, Any]) -> None:
        self.replies = replies
        self.requests: list[httpx.Request] = []
        self.slept_seconds: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.get(request.url.path, (404, {"detail": "Not Found"}))
        if isinstance(reply, list):
            reply = reply.pop(0) if len(reply) > 1 else reply[0]
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, httpx.Response):
            return reply
        status, content = reply
        return httpx.Response(status, text=content if isinstance(content, str) else json.dumps(content))

    async def sleep(self, seconds: float) -> None:
        self.slept_seconds.append(seconds)

    @property
    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]


def ask(call: Callable[[ControlClient], Any], base_url: str, replies: dict[str, Any] | Script) -> Any:
    script = replies if isinstance(replies, Script) else Script(replies)

    async def main() -> Any:
        headers = auth_headers("bearer", KEY)
        transport = httpx.MockTransport(script)
        async with ControlClient(base_url, headers, sleep=script.sleep, transport=transport) as gateway:
            return await call(gateway)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("base_url", "path", "reply", "balance"),
    [
        (CRUN, "/api/v1/client/account/balance", {"code": 200, "message": "success", "data": {"balance": 1000}},
         Balance(Decimal(1000), "credits", "crun")),
        ("https://openrouter.ai/api/v1", "/api/v1/key", {"data": {"limit_remaining": 7.25}},
         Balance(Decimal("7.25"), "usd", "openrouter")),
        ("https://openrouter.ai/api/v1", "/api/v1/key", {"data": {"limit_remaining": None}},
         Balance(None, "usd", "openrouter")),
        ("https://openrouter.ai/api/v1", "/api/v1/credits",
         {"data": {"total_credits": 100.5, "total_usage": 25.75}},
         Balance(Decimal("74.75"), "usd", "openrouter")),
        ("https://proxy.example/v1", "/key/info", {"key": "h", "info": {"max_budget": 10.0, "spend": 0.1}},
         Balance(Decimal("9.9"), "usd", "litellm")),
        ("https://proxy.example/v1", "/v1/key/info", {"key": "h", "info": {"max_budget": None, "spend": 0.1}},
         Balance(None, "usd", "litellm")),
        ("https://proxy.example/team/v1", "/team/key/info", {"info": {"max_budget": 1, "spend": 2}},
         Balance(Decimal(-1), "usd", "litellm")),
        ("https://api.deepseek.com/v1", "/user/balance",
         {"is_available": True, "balance_infos": [{"currency": "CNY", "total_balance": "9"},
                                                  {"currency": "USD", "total_balance": "110.00"}]},
         Balance(Decimal("110.00"), "usd", "deepseek")),
        ("https://api.kie.ai/api/v1", "/api/v1/chat/credit", {"code": 200, "msg": "success", "data": 100},
         Balance(Decimal(100), "credits", "kie")),
        ("http://127.0.0.1:9/api/v1", "/api/v1/client/account/balance", {"code": 200, "data": {"balance": "0.5"}},
         Balance(Decimal("0.5"), "credits", "crun")),
    ],
)  # fmt: skip
def test_each_style_of_balance_is_read_exactly(base_url: str, path: str, reply: object, balance: Balance) -> None:
    """Known hosts and unknown ones, under the base URL and at the server's root."""
    assert balance == ask(read_balance, base_url, {path: (200, reply)})


def page_of(first: int, count: int, more: bool, last_id: str | None = None) -> tuple[int, dict[str, Any]]:
    data = [{"id": f"vendor/model-{number:09d}"} for number in range(first, first + count)]
    return 200, {"data": data, "has_more": more, "last_id": last_id or data[-1]["id"]}


def test_a_list_of_models_without_end_is_a_fault_in_bounded_memory():
    """In one reply of a million entries, or page after page."""
    whole = ask(list_models, UNKNOWN, {"/v1/models": page_of(0, 1_000_000, more=False)})
    assert isinstance(whole, ControlFault) and "larger than 16,777,216 bytes" in whole.message
    pages = Script({"/v1/models": [page_of(number * 20_000, 20_000, more=True) for number in range(50)]})
    paged = ask(list_models, UNKNOWN, pages)
    assert isinstance(paged, ControlFault) and "more than 100,000 models" in paged.message
    assert 6 == len(pages.requests)


def test_a_server_that_ignores_where_to_go_on_is_asked_twice():
    """The same page under the same `last_id` again: there is no more to be had."""
    script = Script({"/v1/models": page_of(0, 3, more=True, last_id="same")})
    assert 6 == len(ask(list_models, UNKNOWN, script))
    assert 2 == script.paths.count("/v1/models")


def test_amounts_keep_every_digit_of_the_reply() -> None:
    """JSON numbers never pass through a float."""
    raw = '{"code": 200, "data": {"balance": 123456789.123456789012345678}}'
    balance = ask(read_balance, CRUN, {"/api/v1/client/account/balance": (200, raw)})
    assert Decimal("123456789.123456789012345678") == balance.amount


def test_the_smaller_of_key_limit_and_account_counts() -> None:
    """OpenRouter: a key without a limit still spends from an account that has one."""
    replies = {
        "/api/v1/key": (200, {"data": {"limit_remaining": None}}),
        "/api/v1/credits": (200, {"data": {"total_credits": 3, "total_usage": 1}}),
    }
    assert Balance(Decimal(2), "usd", "openrouter") == ask(read_balance, "https://openrouter.ai/api/v1", replies)


def test_an_unknown_gateway_is_tried_in_every_style_once() -> None:
    """Until one answers; a known style is asked alone."""
    script = Script({"/v1/chat/credit": (200, {"code": 200, "data": 5})})
    first = ask(read_balance, UNKNOWN, script)
    assert Balance(Decimal(5), "credits", "kie") == first
    assert len(script.paths) == len(set(script.paths))
    again = Script(script.replies)
    assert first == ask(lambda gateway: read_balance(gateway, first.source), UNKNOWN, again)
    assert ["/v1/chat/credit"] == again.paths


@pytest.mark.parametrize("status", [404, 405])
def test_no_balance_call_is_none(status: int) -> None:
    """For unknown hosts after asking, for hosts that are known to have none without asking."""
    assert ask(read_balance, UNKNOWN, {f"/v1{forms[0].path}": (status, "") for forms in FORMS.values()}) is None
    script = Script({})
    assert ask(read_balance, "https://api.openai.com/v1", script) is None
    assert [] == script.paths


@pytest.mark.parametrize(
    "reply", [(401, {"error": "no"}), (403, ""), (200, "<html>console</html>"), (200, {"a": 1}), (200, [])]
)
def test_while_styles_are_tried_out_a_strange_reply_means_another_style(reply: tuple[int, Any]) -> None:
    """A console page or a blanket 401 at a path that does not exist neither stops a run nor is a balance."""
    paths = [f"{base}{form.path}" for forms in FORMS.values() for form in forms for base in ("", "/v1")]
    assert ask(read_balance, UNKNOWN, dict.fromkeys(paths, reply)) is None
    found = dict.fromkeys(paths, reply) | {"/v1/chat/credit": (200, {"code": 200, "data": 1})}
    assert Balance(Decimal(1), "credits", "kie") == ask(read_balance, UNKNOWN, found)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ((401, {"error": {"message": f"bad key {KEY}"}}), "refused"),
        ((403, ""), "refused"),
        ((200, {"code": 401, "message": f"bad key {KEY}"}), "refused"),
        ((200, {"code": 402, "message": "insufficient credits"}), "bad_reply"),
        ((200, {"code": 455, "message": "maintenance"}), "unreachable"),
        ((503, ""), "unreachable"),
        ((200, {"code": 200, "data": {}}), "bad_reply"),
        ((200, {"code": 200, "data": {"balance": None}}), "bad_amount"),
        ((200, '{"code": 200, "data": {"balance": NaN}}'), "bad_amount"),
        ((200, '{"code": 200, "data": {"balance": 1e999999999999999999999}}'), "bad_amount"),
        ((200, '{"code": 200, "data": {"balance": 1e9999}}'), "bad_amount"),
        ((200, '{"a":' * 100_000), "bad_reply"),
        ((302, ""), "bad_reply"),
        (httpx.ConnectError("refused"), "unreachable"),
        (httpx.ReadError("reset"), "unreachable"),
        (httpx.RemoteProtocolError("illegal status line"), "bad_reply"),
    ],
)
def test_a_known_balance_call_that_fails_is_a_fault_of_its_kind(reply: Any, kind: str) -> None:
    """Statuses and body codes alike; the message is one line and never shows the key."""
    paths = ("/api/v1", "/api", "")
    fault = ask(read_balance, CRUN, {f"{path}/client/account/balance": reply for path in paths})
    assert isinstance(fault, ControlFault)
    assert kind == fault.kind
    assert fault.message.startswith("GET /api/v1/client/account/balance at api.crun.ai: ")
    assert "\n" not in fault.message
    assert KEY not in fault.message


def test_transient_trouble_is_tried_again_a_few_times() -> None:
    """503, then an answer: the answer counts. Waits are short and go through the injected sleep."""
    path = "/api/v1/client/account/balance"
    good = (200, {"code": 200, "data": {"balance": 1}})
    script = Script({path: [(503, ""), httpx.ReadError("reset"), good]})
    assert Balance(Decimal(1), "credits", "crun") == ask(read_balance, CRUN, script)
    assert 2 == len(script.slept_seconds)
    assert max(script.slept_seconds) <= 4
    script = Script({path: (503, "")})
    assert "unreachable" == ask(read_balance, CRUN, script).kind
    assert [path] * 3 == script.paths


@pytest.mark.parametrize(
    ("expected", "status", "told"),
    [([3.0, 1.0], 429, "3"), ([10.0, 1.0], 503, "3600"), ([0.5, 1.0], 429, "0"), ([0.5, 1.0], 429, "soon")],
)
def test_a_control_call_waits_as_long_as_it_is_told_within_reason(
    expected: list[float], status: int, told: str
) -> None:
    """Retry-After counts here too; nobody waits an hour for a list of models."""
    path = "/api/v1/client/account/balance"
    refusal = httpx.Response(status, headers={"retry-after": told})
    script = Script({path: [refusal, (503, ""), (200, {"code": 200, "data": {"balance": 1}})]})
    assert Balance(Decimal(1), "credits", "crun") == ask(read_balance, CRUN, script)
    assert expected == script.slept_seconds


def test_a_refused_key_is_asked_once() -> None:
    """401 is no trouble that passes."""
    script = Script({"/api/v1/models": (401, {"error": {"message": "no"}})})
    assert "refused" == ask(list_models, CRUN, script).kind
    assert 1 == len(script.paths)


def test_an_unreachable_gateway_is_not_asked_in_every_style() -> None:
    """One call's attempts, not five styles times three places."""
    script = Script({})
    script.replies = dict.fromkeys(["/v1/client/account/balance"], httpx.ConnectError("refused"))
    assert "unreachable" == ask(read_balance, UNKNOWN, script).kind
    assert 3 == len(script.paths)


def test_crun_gets_its_key_in_both_headers() -> None:
    """The balance call is documented with X-API-KEY only, all others with a bearer token."""
    script = Script({"/api/v1/client/account/balance": (200, {"code": 200, "data": {"balance": 1}})})
    ask(read_balance, CRUN, script)
    sent = script.requests[0].headers
    assert (KEY, f"Bearer {KEY}") == (sent["x-api-key"], sent["authorization"])
    script = Script({"/api/v1/models": (200, OPENAI_LIST)})
    ask(list_models, CRUN, script)
    assert "x-api-key" not in script.requests[0].headers


def test_models_without_prices() -> None:
    """The plain list of CRUN and OpenAI; CRUN is not asked for prices that it does not tell."""
    script = Script({"/api/v1/models": (200, OPENAI_LIST)})
    assert (ModelInfo("gpt-5.4"), ModelInfo("claude-sonnet-4-5")) == ask(list_models, CRUN, script)
    assert ["/api/v1/models"] == script.paths


def test_a_list_without_anything_around_it_is_one() -> None:
    """Together's; its prices are of a million tokens, and are not taken for those of one."""
    listed = [{"id": "a/b", "type": "chat", "pricing": {"input": 0.3, "output": 0.6, "hourly": 0}}, {"id": "a/c"}]
    script = {"/v1/models": (200, listed)}
    assert (ModelInfo("a/b"), ModelInfo("a/c")) == ask(list_models, "https://api.together.example/v1", script)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("gemini-3-flash", []), ("models/gemini-3-flash", []), ("gemini-3-flush", ["gemini-3-flush"])],
)
def test_a_model_of_gemini_is_listed_by_its_longer_name(asked: str, expected: list[str]) -> None:
    """Its list says `models/` before each name, and a job need not: no run is told that its model is missing."""
    target: Any = SimpleNamespace(job=SimpleNamespace(model=asked))
    listed = GatewayOffer(models=(ModelInfo("models/gemini-3-flash"),))
    assert expected == list(unlisted_models(GatewayFacts(listed, (target,), ())))


def test_openrouter_models_carry_exact_prices() -> None:
    """Texts, dollars per token; the fee per request; free models are free."""
    pricing = {
        "prompt": "0.00000125",
        "completion": "0.00001",
        "request": "0.005",
        "input_cache_read": "0.000000125",
    }
    data = [
        {"id": "a/b", "pricing": pricing},
        {"id": "a/free", "pricing": {"prompt": "0", "completion": "0"}},
        {"id": "openrouter/auto", "pricing": {"prompt": "-1", "completion": "-1"}},
        {"id": 7},
        "no model",
    ]
    models = ask(list_models, "https://openrouter.ai/api/v1", {"/api/v1/models": (200, {"data": data})})
    quote = PriceQuote(
        Decimal("0.00000125"),
        Decimal("0.00001"),
        Decimal("0.000000125"),
        request_usd=Decimal("0.005"),
        source="models",
    )
    free = PriceQuote(Decimal(0), Decimal(0))
    assert (ModelInfo("a/b", quote), ModelInfo("a/free", free), ModelInfo("openrouter/auto", None)) == models


@pytest.mark.parametrize(
    "pricing",
    [
        None,
        {},
        {"prompt": "0.1"},
        {"prompt": "free", "completion": "0.1"},
        {"prompt": "-1", "completion": "0.1"},
        {"prompt": "0.1", "completion": "0.1", "request": "?"},
        {"prompt": "0.1", "completion": "0.1", "internal_reasoning": "0.2"},
        {"prompt": True, "completion": "0.1"},
    ],
)
def test_a_price_that_is_not_wholly_understood_is_no_quote(pricing: object) -> None:
    """Unknown is better than a part of a price."""
    assert openrouter_quote(pricing) is None


def test_litellm_prices_are_found_beside_v1() -> None:
    """Deployments of one name that differ, tiers and zeros have no quote; models keep the list's order."""
    costs = {"input_cost_per_token": 1e-06, "output_cost_per_token": 2.5e-06, "cache_read_input_token_cost": None}
    info = [
        {"model_name": "gpt-5.4", "model_info": costs},
        {"model_name": "two", "model_info": costs},
        {"model_name": "two", "model_info": {**costs, "input_cost_per_token": 3e-06}},
        {"model_name": "tiers", "model_info": {**costs, "input_cost_per_token_above_200k_tokens": 2e-06}},
        {"model_name": "zero", "model_info": {"input_cost_per_token": 0, "output_cost_per_token": 0}},
    ]
    listed = {"data": [{"id": name} for name in ("zero", "tiers", "two", "gpt-5.4", "other")]}
    models = ask(list_models, UNKNOWN, {"/v1/models": (200, listed), "/model/info": (200, {"data": info})})
    quote = PriceQuote(Decimal("0.000001"), Decimal("0.0000025"))
    assert ["zero", "tiers", "two", "gpt-5.4", "other"] == [model.id for model in models]
    assert [None, None, None, quote, None] == [model.quote for model in models]


def test_a_price_call_that_meets_a_fault_is_not_looked_for_elsewhere() -> None:
    """A gateway that is silent there is silent in the other place too, each time to the last deadline."""
    script = Script({"/v1/models": (200, OPENAI_LIST), "/v1/model/info": httpx.ReadTimeout("silent")})
    models = ask(list_models, UNKNOWN, script)
    assert ["gpt-5.4", "claude-sonnet-4-5"] == [model.id for model in models]
    assert ["/v1/models", *["/v1/model/info"] * 3] == script.paths


def test_lists_in_pages_are_read_to_their_end() -> None:
    """Anthropic's list: has_more and last_id."""
    pages = [
        (200, {"data": [{"id": "a"}], "has_more": True, "last_id": "a"}),
        (200, {"data": [{"id": "b"}], "has_more": False, "last_id": "b"}),
    ]
    script = Script({"/v1/models": pages})
    assert (ModelInfo("a"), ModelInfo("b")) == ask(list_models, "https://api.anthropic.com/v1", script)
    assert "after_id=a" == script.requests[1].url.query.decode()


@pytest.mark.parametrize("status", [404, 405])
def test_no_model_list_is_none(status: int) -> None:
    """A gateway without the call is no failure."""
    assert ask(list_models, UNKNOWN, {"/v1/models": (status, "")}) is None


@pytest.mark.parametrize(
    ("reply", "kind"),
    [((200, "<html>"), "bad_reply"), ((200, {"data": 1}), "bad_reply"), ((502, ""), "unreachable")],
)
def test_a_model_list_that_fails_is_a_fault(reply: tuple[int, Any], kind: str) -> None:
    """A page of HTML is no empty list."""
    assert kind == ask(list_models, CRUN, {"/api/v1/models": reply}).kind


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.mark.parametrize(
    ("name", "kind", "deadline_seconds"),
    [
        ("stall_before_headers", "unreachable", 0.3),
        ("drip_body", "unreachable", 0.3),
        ("close_in_body", "unreachable", 10),
        ("endless_content_length", "bad_reply", 10),
    ],
)
def test_control_calls_end_by_deadline_and_cap_over_real_connections(
    name: str, kind: str, deadline_seconds: float, server: FaultServer
) -> None:
    """A gateway that stalls, drips, cuts off or floods costs its deadlines and no more."""

    async def main() -> Any:
        headers = auth_headers("x-api-key", KEY)
        url = server.url(name)
        async with ControlClient(
            url, headers, deadline_seconds=deadline_seconds, attempts=2, sleep=Script({}).sleep
        ) as gateway:
            return await gateway.get(url)

    started = time.monotonic()
    fault = asyncio.run(main())
    assert isinstance(fault, ControlFault)
    assert kind == fault.kind
    assert time.monotonic() - started < 2 * deadline_seconds + 1


def test_a_refused_connection_is_unreachable() -> None:
    """Nobody listens: a fault, not an exception."""

    async def main(url: str) -> Any:
        async with ControlClient(url, {}, sleep=Script({}).sleep) as gateway:
            return await list_models(gateway), await read_balance(gateway)

    with refusing_url() as url:
        assert ["unreachable", "unreachable"] == [fault.kind for fault in asyncio.run(main(url))]


def test_the_key_is_in_no_repr() -> None:
    """Neither of the gateway nor of what it returns."""
    gateway = ControlClient(CRUN, auth_headers("bearer", KEY))
    assert KEY not in repr(gateway)
    asyncio.run(gateway.close())


def test_auth_headers_by_kind() -> None:
    """Bearer, X-API-KEY, none; no key, no header."""
    assert {"authorization": "Bearer k"} == auth_headers("bearer", "k")
    assert {"x-api-key": "k"} == auth_headers("x-api-key", "k")
    assert {} == auth_headers("none", "k")
    assert {} == auth_headers("bearer", None)


def test_a_base_url_that_is_none_is_a_mistake() -> None:
    """Before anything is sent."""
    with pytest.raises(InputError, match=r"endpoint\.base_url"):
        ControlClient("api.crun.ai/api/v1", {})


def test_hosts_are_matched_whole() -> None:
    """A host that only ends in a known name is somebody else's."""
    assert (("openrouter",), True) == styles_for("eu.openrouter.ai")
    assert not styles_for("notopenrouter.ai")[1]
    assert not styles_for("openrouter.ai.evil.example")[1]


FIELDS = [
    *("data", "balance", "limit_remaining", "info", "max_budget", "spend", "balance_infos", "currency", "id"),
    *("pricing", "prompt", "completion", "model_name", "model_info", "total_credits", "total_usage"),
]
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.decimals()
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(["data", "info", "balance_infos", "code"]), JSON, max_size=3))
def test_no_reply_makes_a_reader_fail(payload: dict[str, Any]) -> None:
    """Whatever JSON a gateway sends, the readers return a value; an amount is always finite."""
    for forms in FORMS.values():
        for form in forms:
            amount = form.read(payload)
            assert not isinstance(amount, Decimal) or amount.is_finite()
    models = model_infos(payload)
    assert models is None or all(isinstance(model.id, str) for model in models)
    litellm_quotes(payload)


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, min_value=Decimal(-(10**12)), max_value=Decimal(10**12), places=12
    )
)
def test_amounts_are_exact(amount: Decimal) -> None:
    """Numbers and numeric texts alike."""
    assert amount == amount_of(str(amount)) == amount_of(amount)


def test_the_least_balance_runs_out_first() -> None:
    """No limit is more than any amount."""
    some, none = Balance(Decimal(3), "usd", "a"), Balance(None, "usd", "b")
    assert some == least([none, some])
    assert none == least([none])
    assert least([]) is None


def test_a_500_while_styles_are_tried_out_means_another_style():
    """A LiteLLM proxy without a database answers /key/info with 500: that is no balance call, and no trouble."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            500 if request.url.path.endswith("/key/info") else 404, json={"error": "no database"}
        )

    async def ask():
        async with ControlClient(
            "http://127.0.0.1:1/v1", {}, transport=httpx.MockTransport(answer), attempts=1
        ) as gateway:
            return await read_balance(gateway), await read_balance(gateway, "litellm")

    unknown, known = asyncio.run(ask())
    assert unknown is None
    assert isinstance(known, ControlFault)


NO_AMOUNTS = ["9" * 5000, "1e999999999999999999999", "1e400", "NaN", "Infinity", "null", "true"]
NO_AMOUNTS += ['"plenty"', '""', "[]", "{}", '"NaN"']
STATING = {
    "crun": ("/v1/client/account/balance", '{"code": 200, "data": {"balance": VALUE}}'),
    "openrouter": ("/v1/credits", '{"data": {"total_credits": VALUE, "total_usage": 1}}'),
    "openrouter key": ("/v1/key", '{"data": {"limit_remaining": VALUE}}'),
    "litellm": ("/v1/key/info", '{"info": {"max_budget": VALUE, "spend": 1}}'),
    "litellm spend": ("/v1/key/info", '{"info": {"max_budget": 1, "spend": VALUE}}'),
    "deepseek": ("/v1/user/balance", '{"balance_infos": [{"currency": "USD", "total_balance": VALUE}]}'),
    "kie": ("/v1/chat/credit", '{"code": 200, "data": VALUE}'),
}
OTHERS = {("openrouter key", "null"), ("litellm", "null"), ("kie", "[]"), ("kie", "{}")}
"""No limit; or a shape that many gateways have, of whatever meaning."""


@pytest.mark.parametrize("style", STATING)
def test_a_balance_that_is_no_amount_is_not_a_missing_balance_call(style: str) -> None:
    """At any gateway: the call is there, and what it says is not known, so `credits: require` refuses to start."""
    path, reply = STATING[style]
    for value in NO_AMOUNTS:
        if (style, value) not in OTHERS:
            found = ask(read_balance, UNKNOWN, {path: (200, reply.replace("VALUE", value))})
            assert isinstance(found, ControlFault), value
            assert "bad_amount" == found.kind, value
            assert "no finite amount" in found.message
