"""What a gateway tells about itself: models, prices, credit, in the words of each style of gateway.

A row per call in CONTROLS: style -> path -> function. Calls that a style does not have are 404.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import orjson
from msgspec import Struct

from crun_batch.simulator.endpoints.form import CREATED
from crun_batch.simulator.settings import PICO, Settings, decimal_text


class SimulatedAccount(Struct, frozen=True):
    """What the control calls may tell: the settings, and pico-credits left and charged."""

    settings: Settings
    balance_pico: int
    charged_pico: int


Control = Callable[[SimulatedAccount], dict[str, Any]]
_MTOK = 10**6


def usd_text(amount_pico: int, settings: Settings) -> str:
    """Pico-credits as decimal text of dollars, with at most 18 places."""
    return _plain(Decimal(amount_pico) / PICO / settings.credits_per_usd)


def _usd_per_token(credits_per_mtok: Decimal, settings: Settings) -> str:
    return _plain(credits_per_mtok / _MTOK / settings.credits_per_usd)


def _plain(amount: Decimal) -> str:
    text = f"{amount:.18f}".rstrip("0").rstrip(".")
    return text or "0"


def _number(text: str) -> orjson.Fragment:
    return orjson.Fragment(text)


def _models(account: SimulatedAccount) -> dict[str, Any]:
    data = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": model.owned_by}
        for name, model in account.settings.models.items()
    ]
    return {"object": "list", "data": data}


def _openrouter_models(account: SimulatedAccount) -> dict[str, Any]:
    settings = account.settings
    data = [
        {
            "id": name,
            "name": name,
            "created": CREATED,
            "context_length": model.context_tokens,
            "pricing": {
                field: _usd_per_token(amount, settings)
                for field, amount in (
                    ("prompt", model.input_per_mtok),
                    ("completion", model.output_per_mtok),
                    ("request", Decimal(0)),
                    ("input_cache_read", model.cached_input_per_mtok),
                    ("input_cache_write", model.cache_write_per_mtok),
                )
                if amount is not None
            },
        }
        for name, model in settings.models.items()
    ]
    return {"data": data}


def _litellm_models(account: SimulatedAccount) -> dict[str, Any]:
    settings = account.settings
    data = [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}"},
            "model_info": {
                "id": name,
                "max_output_tokens": model.max_output_tokens,
                "max_input_tokens": model.context_tokens,
                **{
                    field: _number(_usd_per_token(amount, settings))
                    for field, amount in (
                        ("input_cost_per_token", model.input_per_mtok),
                        ("output_cost_per_token", model.output_per_mtok),
                        ("cache_read_input_token_cost", model.cached_input_per_mtok),
                        ("cache_creation_input_token_cost", model.cache_write_per_mtok),
                    )
                    if amount is not None
                },
            },
        }
        for name, model in settings.models.items()
    ]
    return {"data": data}


def _crun_balance(account: SimulatedAccount) -> dict[str, Any]:
    balance = _number(decimal_text(account.balance_pico))
    return {"code": 200, "message": "success", "data": {"balance": balance}}


def _openrouter_key(account: SimulatedAccount) -> dict[str, Any]:
    left = usd_text(account.balance_pico, account.settings)
    limit = usd_text(account.balance_pico + account.charged_pico, account.settings)
    usage = usd_text(account.charged_pico, account.settings)
    data = {
        "label": "simulated",
        "limit": _number(limit),
        "limit_remaining": _number(left),
        "usage": _number(usage),
    }
    return {"data": {**data, "is_free_tier": False}}


def _openrouter_credits(account: SimulatedAccount) -> dict[str, Any]:
    total = usd_text(account.balance_pico + account.charged_pico, account.settings)
    return {
        "data": {
            "total_credits": _number(total),
            "total_usage": _number(usd_text(account.charged_pico, account.settings)),
        }
    }


def _litellm_key(account: SimulatedAccount) -> dict[str, Any]:
    budget = usd_text(account.balance_pico + account.charged_pico, account.settings)
    spend = usd_text(account.charged_pico, account.settings)
    return {"key": "simulated", "info": {"max_budget": _number(budget), "spend": _number(spend)}}


def _deepseek_balance(account: SimulatedAccount) -> dict[str, Any]:
    left = usd_text(account.balance_pico, account.settings)
    infos = [{"currency": "USD", "total_balance": left, "granted_balance": "0", "topped_up_balance": left}]
    return {"is_available": account.balance_pico > 0, "balance_infos": infos}


def _kie_credit(account: SimulatedAccount) -> dict[str, Any]:
    return {"code": 200, "msg": "success", "data": _number(decimal_text(account.balance_pico))}


CRUN_BALANCE = "/client/account/balance"

CONTROLS: dict[str, dict[str, Control]] = {
    "crun": {"/models": _models, CRUN_BALANCE: _crun_balance},
    "openrouter": {
        "/models": _openrouter_models,
        "/key": _openrouter_key,
        "/credits": _openrouter_credits,
    },
    "litellm": {"/models": _models, "/model/info": _litellm_models, "/key/info": _litellm_key},
    "deepseek": {"/models": _models, "/user/balance": _deepseek_balance},
    "kie": {"/models": _models, "/chat/credit": _kie_credit},
    "plain": {"/models": _models},
}
"""Style of gateway -> path under the base URL -> the call."""
