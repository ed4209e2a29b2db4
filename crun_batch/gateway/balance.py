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


class Unreadable(Struct, frozen=True):
    """Read where the reply is of this style, but what stands for the amount is none: a balance, unknown."""


Reading = Decimal | Unlimited | Unreadable | None
"""What a reply says of the balance; None: it is of another shape."""


class Form(NamedTuple):
    """One balance call: its path, whether it wants the key as X-API-KEY too, and how its reply is read."""

    path: str
    unit: Literal["credits", "usd"]
    read: Callable[[dict[str, Any]], Reading]
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


def _stated(holder: object, name: str) -> Decimal | Unreadable | None:
    """The amount that an object states under a name; None where it is no object or has no such name."""
    if not isinstance(holder, dict) or name not in holder:
        return None
    amount = amount_of(holder[name])
    return Unreadable() if amount is None else amount


def _difference(total: Decimal | Unreadable | None, used: Decimal | Unreadable | None) -> Reading:
    if isinstance(total, Decimal) and isinstance(used, Decimal):
        return total - used
    return None if total is None and used is None else Unreadable()


def _read_crun(payload: dict[str, Any]) -> Reading:
    return _stated(payload.get("data"), "balance")


def _read_openrouter_key(payload: dict[str, Any]) -> Reading:
    data = payload.get("data")
    if isinstance(data, dict) and data.get("limit_remaining", 0) is None:
        return Unlimited()
    return _stated(data, "limit_remaining")


def _read_openrouter_credits(payload: dict[str, Any]) -> Reading:
    data = payload.get("data")
    return _difference(_stated(data, "total_credits"), _stated(data, "total_usage"))


def _read_litellm(payload: dict[str, Any]) -> Reading:
    info = payload.get("info")
    if not isinstance(info, dict) or "spend" not in info:
        return None
    if info.get("max_budget") is None:
        return Unlimited()
    return _difference(_stated(info, "max_budget"), _stated(info, "spend"))


def _read_deepseek(payload: dict[str, Any]) -> Reading:
    """Its dollar purse. A purse in another currency has no meaning in a budget of dollars or credits."""
    purses = payload.get("balance_infos")
    for purse in purses if isinstance(purses, list) else ():
        if isinstance(purse, dict) and purse.get("currency") == "USD":
            return Unreadable() if "total_balance" not in purse else _stated(purse, "total_balance")
    return None


def _read_kie(payload: dict[str, Any]) -> Reading:
    return None if isinstance(payload.get("data"), dict | list) else _stated(payload, "data")


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
