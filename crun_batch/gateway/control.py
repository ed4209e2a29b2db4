"""The control calls: which models a gateway offers and at what price, and what is left to spend.

Asked before the start and once a minute, the same way as the paid requests go, so that a proxy or a certificate
means the same for both: a deadline for each call, few retries (tenacity). What goes wrong is a value,
`ControlFault`: the caller decides whether it stops the run. None always means "this gateway has no such call",
which is no fault.

The calls of each style of gateway are in `balance.py` and `quotes.py`; nothing else here knows a style.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from msgspec import Struct
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, wait_exponential

from crun_batch.gateway.balance import FORMS, Balance, Form, Unlimited, Unreadable, least, styles_for
from crun_batch.gateway.failures import message_line
from crun_batch.gateway.http.addresses import checked_url
from crun_batch.gateway.http.bodies import ByteBudget, WireSettings
from crun_batch.gateway.http.direct import DirectWire
from crun_batch.gateway.quotes import ModelInfo, PriceQuote, litellm_quotes, model_infos
from crun_batch.gateway.rate_headers import retry_after_seconds
from crun_batch.records import Fault, Headers, Response

if TYPE_CHECKING:
    import httpx

    from crun_batch.gateway.http.httpx_wire import HttpxWire

__all__ = [
    "Balance",
    "ControlClient",
    "ControlFault",
    "ModelInfo",
    "PriceQuote",
    "auth_headers",
    "list_models",
    "read_balance",
]

MAX_REPLY_BYTES = 16 * 2**20
MAX_PAGES = 50
MAX_MODELS = 100_000
"""Of all pages. The longest public lists have some thousands; a list without end is of no use, and is said."""
LONGEST_INTEGER_DIGITS = 100
REFUSED = frozenset({401, 403})
NO_SUCH_CALL = frozenset({404, 405, 501, 505})
TRANSIENT = frozenset({408, 425, 429, 455, 500, 502, 503, 504, 529})
LONGEST_TOLD_WAIT_SECONDS = 10.0
"""Somebody sits before a command that asks for models or a balance."""
PRICELESS_HOSTS = frozenset({"api.crun.ai", "api.openai.com", "api.anthropic.com", "api.deepseek.com"})
"""Hosts that are known to have no price call; others are asked for LiteLLM's."""
SHORTEST_SECRET_CHARACTERS = 8


class ControlFault(Struct, frozen=True):
    """A control call that brought nothing; `message` is one line, without secrets.

    `refused`: 401 or 403, the key. `unreachable`: the network, or the gateway is in trouble, and later it may
    work. `bad_amount`: there is a balance, and what the gateway says of it is no amount. `bad_reply`: anything
    else.
    """

    kind: Literal["refused", "unreachable", "bad_amount", "bad_reply"]
    message: str
    is_lasting: bool = False
    """It will be so each time, until somebody changes something: a certificate, a proxy's password, a scheme."""


class ControlReply(Struct, frozen=True):
    """A whole reply to a control call. `status`: the body's own `code`, where it contradicts a 2xx."""

    status: int
    payload: dict[str, Any] | None

    @property
    def is_good(self) -> bool:
        """A 2xx with a JSON object."""
        return 200 <= self.status < 300 and self.payload is not None


def auth_headers(auth: Literal["bearer", "x-api-key", "none"], key: str | None) -> dict[str, str]:
    """The headers that carry the key; none without a key."""
    if auth == "none" or key is None:
        return Headers()
    return Headers({"authorization": f"Bearer {key}"} if auth == "bearer" else {"x-api-key": key})


class ControlClient:
    """A gateway's control side: where it is, with which headers it is asked, and how patiently.

    `headers` hold the key; they are in no repr and no message. `transport` replaces the network in tests. Use as
    an async context manager, or close it.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        deadline_seconds: float = 15.0,
        attempts: int = 3,
        ca_file: Path | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`deadline_seconds` is for each attempt; `ca_file` is trusted besides the system's certificates.

        What follows a '?' in the URL follows every path. Raises InputError for a URL that is none, a proxy of the
        environment or certificates that cannot be used.
        """
        parts = checked_url(base_url)
        self.host = parts.hostname or ""
        address, mark, query = base_url.partition("?")
        self._base_url = address.rstrip("/")
        self._query = mark + query
        self._root_url = f"{parts.scheme}://{parts.netloc}"
        self._headers = Headers({name.lower(): value for name, value in headers.items()})
        self._deadline_seconds = deadline_seconds
        self._attempts = attempts
        self._sleep = sleep
        self._redact: Callable[[str], str] = self._without_headers
        self.told_time: datetime | None = None
        """The gateway's clock in its last reply, UTC; None where it told none."""
        settings = WireSettings(ByteBudget(2 * MAX_REPLY_BYTES, 1), MAX_REPLY_BYTES, deadline_seconds / 2)
        self._wire = control_wire(settings, base_url, ca_file, transport)

    def hiding(self, redact: Callable[[str], str]) -> ControlClient:
        """Itself; from now on `redact` takes the secrets out of what it says, and not every header's value."""
        self._redact = redact
        return self

    async def __aenter__(self) -> ControlClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._wire.close()

    def urls(self, path: str) -> tuple[str, ...]:
        """Where a call may be: under the base URL, beside its /v1, at the server's root."""
        bases = (self._base_url, self._base_url.removesuffix("/v1"), self._root_url)
        return tuple(dict.fromkeys(base + path + self._query for base in bases))

    async def get(self, url: str, *, with_api_key_header: bool = False) -> ControlReply | ControlFault:
        """GET, tried again while the trouble looks transient. The fault is the last attempt's."""
        headers = self._with_api_key_header() if with_api_key_header else self._headers
        retrying = AsyncRetrying(
            retry=retry_if_result(_is_transient),
            stop=stop_after_attempt(self._attempts),
            wait=_wait_seconds,
            sleep=self._sleep,
            retry_error_callback=_last_result,
        )
        result: Response | Fault = await retrying(self._wire.get, url, headers, self._deadline_seconds)
        if isinstance(result, Fault):
            kind: Literal["unreachable", "bad_reply"] = (
                "bad_reply" if result.kind == "bad_reply" else "unreachable"
            )
            return ControlFault(kind, self._sentence(url, result.message), result.is_lasting)
        self.told_time = _time_in(result.headers.get("date"))
        return _answer(result)

    def fault(self, url: str, answer: ControlReply) -> ControlFault:
        """Why an answer that is not good is of no use."""
        kind: Literal["refused", "unreachable", "bad_reply"] = "bad_reply"
        if answer.status in REFUSED:
            kind = "refused"
        elif answer.status in TRANSIENT:
            kind = "unreachable"
        text = f"HTTP {answer.status}{_words(answer.payload)}"
        if 200 <= answer.status < 300:
            text = "the reply has another shape than expected"
        elif 300 <= answer.status < 400:
            text += ", a redirect, which is not followed: set endpoint.base_url to the final address"
        return ControlFault(kind, self._sentence(url, text))

    def endless_list(self, url: str) -> ControlFault:
        """There are models, but more than anybody offers."""
        return ControlFault("bad_reply", self._sentence(url, f"the list has more than {MAX_MODELS:,} models"))

    def bad_amount(self, url: str) -> ControlFault:
        """There is a balance, but not as a number."""
        return ControlFault("bad_amount", self._sentence(url, "the balance in the reply is no finite amount"))

    def _sentence(self, url: str, text: str) -> str:
        """What was called and what came, without the secrets that a server may repeat."""
        return f"GET {checked_url(url).path} at {self.host}: {message_line(self._redact(text))}"

    def _without_headers(self, text: str) -> str:
        for value in self._headers.values():
            for secret in (value, value.removeprefix("Bearer ")):
                if len(secret) >= SHORTEST_SECRET_CHARACTERS:
                    text = text.replace(secret, "[secret removed]")
        return text

    def _with_api_key_header(self) -> Mapping[str, str]:
        """CRUN documents its balance call with X-API-KEY only."""
        bearer = self._headers.get("authorization", "")
        if "x-api-key" in self._headers or not bearer.startswith("Bearer "):
            return self._headers
        return Headers({**self._headers, "x-api-key": bearer.removeprefix("Bearer ")})


async def list_models(gateway: ControlClient) -> tuple[ModelInfo, ...] | ControlFault | None:
    """The models on offer, in the gateway's order, with its own prices where it tells them. None: no such call."""
    models: list[ModelInfo] = []
    after: str | None = None
    for _ in range(MAX_PAGES):
        url = gateway.urls("/models")[0]
        if after:
            url += ("&" if "?" in url else "?") + urlencode({"after_id": after})
        answer = await gateway.get(url)
        if isinstance(answer, ControlFault):
            return answer
        if answer.status in NO_SUCH_CALL:
            return None
        page = model_infos(answer.payload) if answer.is_good and answer.payload else None
        if page is None or answer.payload is None:
            return gateway.fault(url, answer)
        models += page
        if len(models) > MAX_MODELS:
            return gateway.endless_list(url)
        before, after = after, answer.payload.get("last_id") if answer.payload.get("has_more") is True else None
        if not isinstance(after, str) or after == before:
            break
    if gateway.host not in PRICELESS_HOSTS and not any(model.quote for model in models):
        models = await _with_litellm_quotes(gateway, models)
    return tuple(models)


async def _with_litellm_quotes(gateway: ControlClient, models: list[ModelInfo]) -> list[ModelInfo]:
    """Prices of a LiteLLM proxy, if it is one and tells them; otherwise the models as they are, without."""
    for url in gateway.urls("/model/info"):
        answer = await gateway.get(url)
        if isinstance(answer, ControlFault):  # not there either, and somebody waits
            return models
        if answer.is_good and answer.payload:
            quotes = litellm_quotes(answer.payload)
            return [ModelInfo(model.id, quotes.get(model.id)) for model in models]
    return models


async def read_balance(gateway: ControlClient, known_style: str | None = None) -> Balance | ControlFault | None:
    """What is left to spend. None: this gateway has no balance call.

    An unknown host is asked in each style until one answers; a later call should pass the `source` of the first
    balance as `known_style`. While styles are tried out, a 401 or 403 means "not this style", not "wrong key", and
    so does a 500: a LiteLLM proxy without a database answers its own balance call so.
    """
    styles, certain = styles_for(gateway.host, known_style)
    for style in styles:
        results = [await _read_form(gateway, style, form, certain=certain) for form in FORMS[style]]
        faults = [result for result in results if isinstance(result, ControlFault)]
        unknown = [fault for fault in faults if fault.kind == "bad_amount"]
        balance = least([result for result in results if isinstance(result, Balance)])
        if balance is not None and not unknown:
            return balance
        for fault in (*unknown, *faults):
            if certain or fault.kind in ("unreachable", "bad_amount"):
                return fault
    return None


async def _read_form(
    gateway: ControlClient, style: str, form: Form, *, certain: bool
) -> Balance | ControlFault | None:
    """One balance call, wherever it is; the first fault, if none of the places answers as expected."""
    trouble: ControlFault | None = None
    for url in gateway.urls(form.path):
        answer = await gateway.get(url, with_api_key_header=form.wants_api_key_header)
        if isinstance(answer, ControlFault):
            return answer
        amount = form.read(answer.payload) if answer.is_good and answer.payload else None
        if isinstance(amount, Unreadable):
            return gateway.bad_amount(url)
        if amount is not None:
            return Balance(None if isinstance(amount, Unlimited) else amount, form.unit, style)
        if answer.status in NO_SUCH_CALL or (answer.status == 500 and not certain):
            continue
        if answer.status in TRANSIENT:
            return gateway.fault(url, answer)
        trouble = trouble or gateway.fault(url, answer)
    return trouble


def control_wire(
    settings: WireSettings, base_url: str, ca_file: Path | None, transport: httpx.AsyncBaseTransport | None
) -> DirectWire | HttpxWire:
    """What carries control calls, to which batches belong; `transport` takes the place of the network."""
    if transport is None:
        return DirectWire(settings, [base_url], {} if ca_file is None else {base_url: ca_file})
    from crun_batch.gateway.http.httpx_wire import HttpxWire

    return HttpxWire(settings, transport)


def _is_transient(result: Response | Fault) -> bool:
    if isinstance(result, Fault):
        return result.kind != "bad_reply" and not result.is_lasting
    return _answer(result).status in TRANSIENT


_backoff_seconds = wait_exponential(multiplier=0.5, max=4)


def _wait_seconds(state: RetryCallState) -> float:
    """Half a second, twice as long each time, and not less than the reply asks for, within reason."""
    result = _last_result(state)
    told = retry_after_seconds(result.headers) if isinstance(result, Response) else None
    return max(_backoff_seconds(state), min(told or 0.0, LONGEST_TOLD_WAIT_SECONDS))


def _time_in(date: str | None) -> datetime | None:
    """A Date header (RFC 9110, 6.6.1), which is always in UTC."""
    try:
        return None if date is None else parsedate_to_datetime(date).astimezone(UTC)
    except ValueError:
        return None


def _last_result(state: RetryCallState) -> Any:
    assert state.outcome is not None
    return state.outcome.result()


def _answer(response: Response) -> ControlReply:
    try:
        payload = json.loads(response.body, parse_float=_number, parse_int=_whole, parse_constant=_number)
    except (ValueError, ArithmeticError, RecursionError):
        return ControlReply(response.status, None)
    if isinstance(payload, list):
        payload = {"data": payload}  # Together lists its models so
    if not isinstance(payload, dict):
        return ControlReply(response.status, None)
    code = payload.get("code")
    if 200 <= response.status < 300 and type(code) is int and code != 200:
        return ControlReply(code, payload)
    return ControlReply(response.status, payload)


def _number(text: str) -> Decimal:
    """Exact; what no arithmetic takes is not a number."""
    try:
        return Decimal(text)
    except ArithmeticError:
        return Decimal("NaN")


def _whole(text: str) -> int | Decimal:
    return int(text) if len(text) <= LONGEST_INTEGER_DIGITS else Decimal("NaN")


def _words(payload: dict[str, Any] | None) -> str:
    """What the server says, in any of the error shapes."""
    error = (payload or {}).get("error")
    said = error if isinstance(error, dict) else payload or {}
    words = next((said[key] for key in ("message", "msg") if isinstance(said.get(key), str)), None)
    return f", {words}" if words else ""
