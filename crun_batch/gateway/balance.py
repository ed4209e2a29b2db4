"""What is left at a gateway: the balance calls of each style of gateway, and how to read their replies.

Owns the table of forms and the reading of amounts. It makes no call: `gateway.read_balance` does.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, NamedTuple

from msgspec import Struct

LARGEST_EXPONENT = 24
"""An amount of 10**25 and more is no amount; exact arithmetic with such exponents could take all memory."""


class Balance(Struct, frozen=True):
    """What may still be spent. `amount` None: no limit is set. `source`: the style of gateway that said so."""

    amount: Decimal | None
    unit: Literal["credits", "usd"]
    source: str


class Unlimited(Struct, frozen=True):
    """Read instead of an amount where the gateway says that there is no limit."""


class Form(NamedTuple):
    """One balance call: its path, whether it wants the key as X-API-KEY too, and how its reply is read.

    `read` returns None for a reply of another shape.
    """

    path: str
    unit: Literal["credits", "usd"]
    read: Callable[[dict[str, Any]], Decimal | Unlimited | None]
    wants_api_key_header: bool = False


def amount_of(value: object) -> Decimal | None:
    """A JSON number or numeric text as an exact amount; None for anything else, infinities included."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        amount = Decimal(value)
    except (InvalidOperation, ValueError):
        return None
    if not amount.is_finite() or abs(amount.adjusted()) > LARGEST_EXPONENT:
        return None
    return amount


def _at(payload: object, *keys: str) -> object:
    """The value under nested keys; None where there is none."""
    for key in keys:
        payload = payload.get(key) if isinstance(payload, dict) else None
    return payload


def _difference(total: object, used: object) -> Decimal | None:
    total_amount, used_amount = amount_of(total), amount_of(used)
    return None if total_amount is None or used_amount is None else total_amount - used_amount


def _read_crun(payload: dict[str, Any]) -> Decimal | None:
    return amount_of(_at(payload, "data", "balance"))


def _read_openrouter_key(payload: dict[str, Any]) -> Decimal | Unlimited | None:
    data = payload.get("data")
    if not isinstance(data, dict) or "limit_remaining" not in data:
        return None
    remaining = data["limit_remaining"]
    return Unlimited() if remaining is None else amount_of(remaining)


def _read_openrouter_credits(payload: dict[str, Any]) -> Decimal | None:
    return _difference(_at(payload, "data", "total_credits"), _at(payload, "data", "total_usage"))


def _read_litellm(payload: dict[str, Any]) -> Decimal | Unlimited | None:
    info = payload.get("info")
    if not isinstance(info, dict) or "spend" not in info:
        return None
    limit = info.get("max_budget")
    return Unlimited() if limit is None else _difference(limit, info["spend"])


def _read_deepseek(payload: dict[str, Any]) -> Decimal | None:
    """Its dollar purse. A purse in another currency has no meaning in a budget of dollars or credits."""
    purses = payload.get("balance_infos")
    for purse in purses if isinstance(purses, list) else ():
        if _at(purse, "currency") == "USD":
            return amount_of(_at(purse, "total_balance"))
    return None


def _read_kie(payload: dict[str, Any]) -> Decimal | None:
    return amount_of(payload.get("data"))


FORMS: dict[str, tuple[Form, ...]] = {
    "crun": (Form("/client/account/balance", "credits", _read_crun, wants_api_key_header=True),),
    "litellm": (Form("/key/info", "usd", _read_litellm),),
    "openrouter": (Form("/key", "usd", _read_openrouter_key), Form("/credits", "usd", _read_openrouter_credits)),
    "deepseek": (Form("/user/balance", "usd", _read_deepseek),),
    "kie": (Form("/chat/credit", "credits", _read_kie),),
}
"""Style of gateway -> its calls, in the order in which an unknown gateway is asked. Of several the least counts:
OpenRouter's key may have no limit while its account has one, which only a management key can read.
"""
STYLES_OF_HOSTS: dict[str, tuple[str, ...]] = {
    "api.crun.ai": ("crun",),
    "openrouter.ai": ("openrouter",),
    "api.deepseek.com": ("deepseek",),
    "kie.ai": ("kie",),
    "api.openai.com": (),
    "api.anthropic.com": (),
}
"""Hosts whose style is known, subdomains included. An empty tuple: that host has no balance call."""


def styles_for(host: str, known_style: str | None = None) -> tuple[tuple[str, ...], bool]:
    """The styles to ask a host for, and whether that is certain or has to be found out by asking."""
    if known_style is not None:
        return (known_style,), True
    for known_host, styles in STYLES_OF_HOSTS.items():
        if host == known_host or host.endswith(f".{known_host}"):
            return styles, True
    return tuple(FORMS), False


def least(balances: list[Balance]) -> Balance | None:
    """The balance that runs out first; None of none."""
    return min(
        balances,
        key=lambda balance: Decimal("Infinity") if balance.amount is None else balance.amount,
        default=None,
    )
