"""Laws of the simulated gateway's books: replies, charges and balance agree to the last pico-credit."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_kit import CHAT, QUESTION, chat, gateway, send

from crun_batch.simulator import Model, Settings
from crun_batch.simulator.asks import ModelUsage
from crun_batch.simulator.ledger import charge_pico, price_of
from crun_batch.simulator.refusals import OUT_OF_CREDIT
from crun_batch.simulator.settings import PICO


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.tuples(*[st.decimals(0, 5000, places=6)] * 5),
)
@settings(deadline=None, max_examples=100)
def test_a_charge_is_tokens_times_price_and_at_least_the_minimum(
    plain: int, cached: int, written: int, output: int, prices: tuple[Decimal, ...]
) -> None:
    """To the last pico-credit, cached and cache-write tokens at their own price."""
    model = Model(
        input_per_mtok=prices[0],
        cached_input_per_mtok=prices[1],
        cache_write_per_mtok=prices[2],
        output_per_mtok=prices[3],
        minimum_per_request=prices[4],
    )
    usage = ModelUsage(plain + cached + written, output, cached, written)
    tokens = sum(count * price for count, price in zip((plain, cached, written, output), prices[:4], strict=True))
    expected = max(prices[4] * PICO, tokens * PICO / 10**6)
    assert expected == charge_pico(price_of(model, Settings()), usage)


def test_the_balance_falls_by_what_the_ledger_says_and_the_ledger_by_what_the_replies_say(tmp_path: Path) -> None:
    """Replies x prices = charges = fall of the balance = lines of the file."""
    path = tmp_path / "ledger.jsonl"
    at = gateway(cached_share=0.5, ledger_path=str(path), balance_credits="100.5", keys={"team": "ak_secret"})
    expected = Decimal(0)
    for n in range(30):
        messages = [
            {"role": "system", "content": "You are a patient teacher. " * 20},
            {"role": "user", "content": f"{n}"},
        ]
        body = {
            "model": "claude-sonnet-4-5",
            "max_tokens": 300,
            "messages": messages[1:],
            "system": messages[0]["content"],
        }
        usage = send(at, "/messages", body, {"x-api-key": "ak_secret"})[2]["usage"]
        cost = (
            usage["input_tokens"] * 600
            + usage["cache_read_input_tokens"] * 60
            + usage["cache_creation_input_tokens"] * 750
            + usage["output_tokens"] * 3000
        )
        expected += max(Decimal("0.01"), Decimal(cost) / 10**6)
        assert (usage["cache_read_input_tokens"] > 0) == (n > 0) != (usage["cache_creation_input_tokens"] > 0)
    assert expected * PICO == at.ledger.charged_pico
    shown = send(at, "/client/account/balance", headers={"x-api-key": "ak_secret"})[2]
    assert {"code": 200, "message": "success", "data": {"balance": Decimal("100.5") - expected}} == shown
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert expected * PICO == sum(line["charge_pico"] for line in lines)
    assert [*range(30)] == [line["serial"] for line in lines]
    assert {"team"} == {line["key_name"] for line in lines}
    assert "ak_secret" not in path.read_text()


def test_short_requests_cost_the_minimum_and_only_where_there_is_one() -> None:
    """CRUN's minimum charge per request; gateways that speak dollars have none."""
    for style, expected in (("crun", Decimal("0.01")), ("deepseek", None)):
        at = gateway(gateway_style=style, models={"m": {"input_per_mtok": 1, "output_per_mtok": 1}})
        usage = send(at, CHAT, chat("hi", model="m"))[2]["usage"]
        plain = Decimal(usage["total_tokens"]) / 10**6
        assert (expected or plain) * PICO == at.ledger.charged_pico


@pytest.mark.parametrize("form", OUT_OF_CREDIT)
def test_without_credit_nothing_is_answered_and_nothing_charged(form: str) -> None:
    """The balance never falls below zero, whatever the words of the refusal."""
    at = gateway(balance_credits="0.5", out_of_credit=form)
    replies = [send(at, CHAT, chat(f"{n}")) for n in range(20)]
    answered = [reply for _, _, reply in replies if "choices" in reply]
    refused = [(status, reply) for status, _, reply in replies if "choices" not in reply]
    assert len(answered) == at.ledger.count > 0
    assert len(refused) > 0 <= at.ledger.balance_pico
    expected = OUT_OF_CREDIT[form]
    assert {expected.status} == {status for status, _ in refused}
    words = json.dumps(refused[0][1])
    assert expected.message in words
    assert str(expected.code or expected.kind or expected.status) in words or form == "crun_http"


def test_a_lagging_balance_shows_an_older_one() -> None:
    """What is shown may be late; what may be spent is not."""
    at = gateway(balance_lag_seconds=3600)
    before = send(at, "/client/account/balance", headers={"x-api-key": "ak_sim"})[2]
    send(at, CHAT, chat(QUESTION))
    assert before == send(at, "/client/account/balance", headers={"x-api-key": "ak_sim"})[2]
    assert at.ledger.balance_pico < 1000 * PICO
