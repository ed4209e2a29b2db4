"""Every knob of the simulated gateway, in one frozen value that JSON can carry.

Owns the names, types, defaults and limits of the settings. Knows nothing of HTTP or of answers. Amounts are
credits as decimals; a name that is unknown is refused with the nearest known one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from crun_batch.errors import InputError, Mistake

BASE_PATH = "/api/v1"
"""Where the endpoints are, which is no setting: the reference gateway has them there."""
PICO = 10**12
_MICRO = 10**6

Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Limit = Annotated[int, Meta(ge=1)] | None
GatewayStyle = Literal["crun", "openrouter", "litellm", "deepseek", "kie", "plain"]
AnswerStyle = Literal["auto", "words", "echo", "label", "number"]
OutOfCredit = Literal[
    "crun_http",
    "crun_body",
    "openai",
    "openai_402",
    "anthropic",
    "anthropic_limit",
    "litellm",
    "openrouter",
    "in_flight",
]


class TierPrice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs at another service tier than the standard one; amounts as of a model."""

    input_per_mtok: Decimal
    output_per_mtok: Decimal
    cached_input_per_mtok: Decimal | None = None
    cache_write_per_mtok: Decimal | None = None
    minimum_per_request: Decimal | None = None
    """Without it the model's."""


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model that the gateway offers: its prices in credits, at most 6 decimals, and what it can do."""

    input_per_mtok: Decimal = Decimal(250)
    """Credits per million input tokens that are neither read from nor written to the cache."""
    output_per_mtok: Decimal = Decimal(1500)
    """Credits per million output tokens, reasoning included."""
    cached_input_per_mtok: Decimal | None = None
    """Credits per million tokens read from the cache; without it they cost what input costs."""
    cache_write_per_mtok: Decimal | None = None
    """Credits per million tokens written to the cache; without it they cost what input costs."""
    minimum_per_request: Decimal = Decimal("0.01")
    """The least a charged request costs, in credits; only in the styles `crun` and `kie`."""
    max_output_tokens: Annotated[int, Meta(ge=1)] = 16384
    """The cap on every request's output, whatever it asks for."""
    context_tokens: Annotated[int, Meta(ge=1)] = 400_000
    """Requests with more input tokens than this are refused with `context_length_exceeded`."""
    accuracy: Share = 1.0
    """How often the answer style `number` gives the right answer."""
    owned_by: str = "simulator"
    """What `GET /models` says under this name."""
    service_tiers: dict[str, TierPrice] = {}
    """What requests cost that ask for one of these by `service_tier`; others than the standard are refused."""


MODELS = {
    "gpt-5.4": Model(
        input_per_mtok=Decimal(500),
        cached_input_per_mtok=Decimal(50),
        output_per_mtok=Decimal(3000),
        service_tiers={
            "flex": TierPrice(
                input_per_mtok=Decimal(250), cached_input_per_mtok=Decimal(25), output_per_mtok=Decimal(1500)
            ),
            "priority": TierPrice(
                input_per_mtok=Decimal(1000), cached_input_per_mtok=Decimal(100), output_per_mtok=Decimal(6000)
            ),
        },
    ),
    "gpt-5.4-mini": Model(
        input_per_mtok=Decimal(100), cached_input_per_mtok=Decimal(10), output_per_mtok=Decimal(600), accuracy=0.9
    ),
    "gpt-5.4-nano": Model(
        input_per_mtok=Decimal(20), cached_input_per_mtok=Decimal(2), output_per_mtok=Decimal(120), accuracy=0.7
    ),
    "claude-sonnet-4-5": Model(
        input_per_mtok=Decimal(600),
        cached_input_per_mtok=Decimal(60),
        cache_write_per_mtok=Decimal(750),
        output_per_mtok=Decimal(3000),
        accuracy=0.97,
    ),
    "claude-haiku-4-5": Model(
        input_per_mtok=Decimal(200),
        cached_input_per_mtok=Decimal(20),
        cache_write_per_mtok=Decimal(250),
        output_per_mtok=Decimal(1000),
        accuracy=0.88,
    ),
    "gemini-2.5-flash": Model(
        input_per_mtok=Decimal(60), cached_input_per_mtok=Decimal(15), output_per_mtok=Decimal(500)
    ),
    "deepseek-chat": Model(
        input_per_mtok=Decimal(56), cached_input_per_mtok=Decimal(14), output_per_mtok=Decimal(336)
    ),
}
"""The models offered by default. The prices are inventions of the usual size, in credits per million tokens."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the simulated gateway behaves. All but host, port and the ledger file can change while it runs."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """The port to listen on; 0 takes a free one."""
    seed: int = 0
    """Changes answers, lengths, latencies and faults, all of which are functions of it and of the request."""
    gateway_style: GatewayStyle = "crun"
    """Whose calls for models, prices and credit are imitated; `plain` has only `GET /models`, without prices."""
    stream_style: Literal["crun", "openai"] = "crun"
    """Chat streams: usage always in the last chunk with choices (crun), or on request in an extra one (openai).
    Completions are streamed in OpenAI's style only."""
    keys: dict[str, str] = {}
    """Accepted keys by name; the ledger shows names only. Without any: every key that starts with `ak_sim`."""
    balance_key: Literal["x-api-key", "any"] = "x-api-key"
    """Which header the CRUN balance call takes the key from; only X-API-KEY is documented."""
    models: dict[str, Model] = msgspec.field(default_factory=lambda: dict(MODELS))
    """The models offered, by id."""
    balance_credits: Decimal = Decimal(1000)
    """Credits at the start; given to a running simulator, the credits from then on."""
    balance_lag_seconds: Seconds = 0.0
    """How long the balance call goes on showing an older balance. What may be spent is never late."""
    credits_per_usd: Decimal = Decimal(200)
    """What the styles that speak dollars divide credits by."""
    bill_errors: bool = False
    """Charge requests that are answered with an error of the gateway's own (5xx) as if they had been answered."""
    out_of_credit: OutOfCredit = "crun_http"
    """In whose words, and with which HTTP status, a request that the balance cannot pay is refused."""
    unknown_model_status: Literal[400, 404] = 404
    """HTTP status that goes with `model_not_found`."""
    invalid_status: Literal[400, 422] = 400
    """HTTP status that goes with an invalid request body."""
    tokenizer: Literal["auto", "o200k", "words", "quarters"] = "auto"
    """What a token is, see the tokens module: auto is o200k where bpe-openai is installed, else words."""
    answer_style: AnswerStyle = "auto"
    """See the answers module; a JSON Schema or a forced tool in the request wins over it."""
    output_tokens_median: Annotated[float, Meta(gt=0)] = 40.0
    """Median length of the answers in the style `words`, in tokens."""
    output_tokens_sigma: Annotated[float, Meta(ge=0, le=4)] = 0.5
    """Sigma of the lognormal distribution of that length; 0 makes them all alike."""
    reasoning_tokens_median: Annotated[float, Meta(ge=0)] = 0.0
    """Median of the hidden reasoning tokens, same sigma; they are billed as output and count against its limit."""
    cached_share: Share = 0.0
    """The share of a repeated prefix (the first of several messages) that is read from the cache."""
    malformed_rate: Share = 0.0
    """How many answers under a JSON Schema are not valid for it (every second one of them is not even JSON)."""
    gold: dict[str, str] = {}
    """Right answers for the style `number`: sha256 (hex) of the question's text -> the number."""
    latency_seconds: Seconds = 0.0
    """Median time to the first byte."""
    latency_sigma: Annotated[float, Meta(ge=0, le=4)] = 0.0
    """Sigma of the lognormal distribution of the latency; 0 makes it constant."""
    tokens_per_second: Annotated[float, Meta(ge=0)] = 0.0
    """Speed of writing the output, after the latency; 0: at once."""
    stream_chunk_characters: Annotated[int, Meta(ge=1)] = 16
    """Characters of text per streamed event."""
    requests_per_minute: Limit = None
    """More than this is answered 429, per key and model."""
    tokens_per_minute: Limit = None
    """Input and output tokens; more than this is answered 429, per key and model."""
    burst_seconds: Annotated[float, Meta(gt=0)] = 60.0
    """How much of the per-minute limits may be used at once, in seconds of them."""
    concurrency: Limit = None
    """More requests than this at the same time are answered 429, over all keys."""
    rate_limit_headers: bool = False
    """Send OpenAI's `x-ratelimit-*` headers (Anthropic's `anthropic-ratelimit-*` on /messages)."""
    faults: dict[str, Share] = {}
    """Kind of fault -> the share of attempts it hits, by seed, request and attempt; see the faults module."""
    fault_markers: bool = True
    """Obey `[[fault:500*2]]` in a prompt: the first two attempts of this request fail so."""
    fault_retry_after_seconds: Seconds | None = None
    """The Retry-After sent with the faults 429, 503, 529 and 455; none by default."""
    stall_seconds: Seconds = 3600.0
    """How long a stalled reply holds its connection before it is closed."""
    drip_seconds: Annotated[float, Meta(gt=0)] = 0.05
    """Time between two bytes of a dripping reply."""
    max_body_bytes: Annotated[int, Meta(ge=1)] = 64 * 1024 * 1024
    """Longer request bodies are refused with 413."""
    served_tiers: dict[str, str] = {}
    """Service tier that is asked for (`auto` where none is) -> the one that serves and bills it instead."""
    names_tier: bool = True
    """Say in the reply which service tier it was, where one was asked for or served instead."""
    stored_responses: Count = 10_000
    """How many of the last replies of /responses can be named by `previous_response_id`."""
    batch_seconds: Seconds = 1.0
    """How long a batch takes, in the styles that have batches: plain (OpenAI's and Anthropic's form), litellm
    (OpenAI's), openrouter (its own)."""
    batch_cancel_seconds: Seconds = 0.0
    """How long a batch that is to be cancelled still works on its lines."""
    batch_price_share: Decimal = Decimal("0.5")
    """What a request costs in a batch, as a share of its price."""
    batch_most_requests: Annotated[int, Meta(ge=1)] = 50_000
    """Batches with more requests are refused."""
    batch_enqueued_tokens: Limit = None
    """A batch with which more input tokens than this wait for their turn, per key and model, fails; in Anthropic's
    form it is refused with 429."""
    batch_list_lag_seconds: Seconds = 0.0
    """How old a batch is before the list of batches tells it."""
    batch_output_seconds: Seconds | None = None
    """How long after its end what a batch brought can be read; for ever by default."""
    batch_faults: dict[str, Share] = {}
    """Kind of fault -> the share of calls, batches or lines that it hits; see the module batches.faults."""
    pack_faults: dict[str, Share] = {}
    """Kind of fault -> the share of items or replies with several questions in a request; see packs."""
    ledger_path: str | None = None
    """A file to which every charge is appended, one JSON line each, before its reply is sent."""
    ledger_entries: bool = True
    """Keep every charge in memory; without it, only the totals."""


FIXED_AT_START = frozenset({"host", "port", "ledger_path"})
"""Settings that a running simulator cannot change."""


def read_settings(mapping: Mapping[str, Any], base: Settings | None = None) -> Settings:
    """Settings from plain values (JSON's); names that are not given are taken from `base`, else the defaults.

    Raises InputError that names each unknown key and the nearest known one, or the value that does not fit.
    """
    unknown = [name for name in mapping if name not in Settings.__struct_fields__]
    if unknown:
        raise InputError([_unknown_setting(name) for name in unknown])
    known = {} if base is None else {name: getattr(base, name) for name in Settings.__struct_fields__}
    try:
        settings = msgspec.convert({**msgspec.to_builtins(known), **mapping}, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(Mistake(f"simulator settings: {_words(error)}")) from None
    priced: dict[str, Model | TierPrice] = {**settings.models}
    for model, entry in settings.models.items():
        priced |= {f"{model}.service_tiers.{name}": tier for name, tier in entry.service_tiers.items()}
    mistakes = [mistake for place, entry in priced.items() for mistake in _price_mistakes(place, entry)]
    if not 0 <= settings.batch_price_share <= 1:
        mistakes.append(Mistake("is no share: from 0 to 1", key="batch_price_share"))
    if mistakes:
        raise InputError(mistakes)
    return settings


def changed_settings(changes: Mapping[str, Any], base: Settings) -> Settings:
    """The settings of a running simulator with some of them changed; raises InputError."""
    fixed = FIXED_AT_START.intersection(changes)
    if fixed:
        raise InputError(f"{', '.join(sorted(fixed))} cannot change while the simulator runs")
    return read_settings(changes, base=base)


def read_settings_file(path: Path) -> Settings:
    """Settings from a JSON file of the same shape."""
    try:
        mapping = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise InputError(Mistake(f"cannot be read: {error.strerror}", file=str(path))) from None
    except msgspec.DecodeError as error:
        raise InputError(Mistake(f"is no JSON object: {error}", file=str(path))) from None
    return read_settings(mapping)


def write_settings(settings: Settings) -> bytes:
    """The settings as one line of JSON that `read_settings` reads back."""
    return msgspec.json.encode(settings)


def pico(amount: Decimal) -> int:
    """Credits as integer pico-credits, exactly."""
    return int(amount * PICO)


def pico_per_token(credits_per_mtok: Decimal) -> int:
    """The price of one token as integer pico-credits; exact, since prices have at most 6 decimals."""
    return int(credits_per_mtok * _MICRO)


def decimal_text(amount_pico: int) -> str:
    """Pico-credits as plain decimal text of credits, without needless zeros."""
    sign = "-" if amount_pico < 0 else ""
    whole, part = divmod(abs(amount_pico), PICO)
    return f"{sign}{whole}.{part:012d}".rstrip("0").rstrip(".")


def _unknown_setting(name: str) -> Mistake:
    near = difflib.get_close_matches(name, Settings.__struct_fields__, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(Settings.__struct_fields__)}"
    return Mistake(f"unknown simulator setting; {advice}", key=name)


def _words(error: msgspec.ValidationError) -> str:
    return re.sub(r"`\$(\.?)", "`", str(error))


def _price_mistakes(place: str, entry: Model | TierPrice) -> list[Mistake]:
    return [
        Mistake(f"{amount} is no price: 0 or more, at most 6 decimals", key=f"models.{place}.{name}")
        for name in entry.__struct_fields__
        if isinstance(amount := getattr(entry, name), Decimal)
        and (not amount.is_finite() or amount < 0 or amount * _MICRO % 1 != 0)
    ]
