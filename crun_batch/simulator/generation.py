"""What a request asks for, and what it comes to: read, answered, held against the limits, charged.

Decided at once, without a wait; what is remembered between requests is remembered here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import orjson
from msgspec import structs

from crun_batch.simulator.answers import MESSAGE_TOKENS, input_tokens
from crun_batch.simulator.asks import Ask, Invalid, ModelAnswer
from crun_batch.simulator.control import usd_text
from crun_batch.simulator.endpoints.form import ApiEndpoint
from crun_batch.simulator.ledger import Ledger, charge_pico, price_of, tier_prices_of
from crun_batch.simulator.limits import RateLimits
from crun_batch.simulator.memory import Memory
from crun_batch.simulator.packs import answer_any, without_sentence
from crun_batch.simulator.refusals import OUT_OF_CREDIT, Refusal, refusal
from crun_batch.simulator.settings import Settings, pico
from crun_batch.simulator.stats import Stats
from crun_batch.simulator.tokens import load_tokenizer

STANDARD_TIERS = ("auto", "default", "standard_only")
"""OpenAI's and Anthropic's words for no tier in particular."""


class Rejected(Exception):
    """The request ends here with this refusal."""

    def __init__(self, problem: Refusal) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Generation:
    """Answers requests under one state of the settings; books them."""

    def __init__(self, settings: Settings, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger(
            pico(settings.balance_credits), settings.ledger_path, settings.ledger_entries
        )
        self.stats = Stats()
        self.memory = Memory()
        self._limits = RateLimits()
        self.take(settings)

    def take(self, settings: Settings) -> None:
        """From here on these settings hold."""
        self._settings = settings
        self._tokenizer = load_tokenizer(settings.tokenizer)
        self._prices = {name: price_of(model, settings) for name, model in settings.models.items()}
        self._batch_prices = {
            name: price_of(model, settings, settings.batch_price_share) for name, model in settings.models.items()
        }
        self._tier_prices = {name: tier_prices_of(model, settings) for name, model in settings.models.items()}

    def read(self, endpoint: ApiEndpoint, body: bytes) -> Ask:
        """What the body asks of this endpoint. Raises Rejected."""
        try:
            payload = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Rejected(refusal(400, f"The body is not valid JSON: {error}.")) from None
        if not isinstance(payload, dict):
            raise Rejected(refusal(400, "The body is no JSON object."))
        try:
            ask = endpoint.read(payload)
            if ask.stream and self._settings.stream_style not in endpoint.stream_styles:
                raise Invalid("Invalid 'stream': this endpoint does not stream.", "stream")
        except Invalid as error:
            raise Rejected(refusal(self._settings.invalid_status, str(error), param=error.param)) from None
        if ask.model not in self._settings.models:
            problem = refusal(
                self._settings.unknown_model_status,
                f"The model '{ask.model}' does not exist or you do not have access to it.",
                code="model_not_found",
                param="model",
            )
            raise Rejected(structs.replace(problem, kind="invalid_request_error", shape="openai"))
        tier = ask.service_tier
        if tier is not None and tier not in STANDARD_TIERS and tier not in self._tier_prices[ask.model]:
            message = f"Invalid service_tier argument: '{tier}' is not supported for model '{ask.model}'."
            raise Rejected(refusal(self._settings.invalid_status, message, param="service_tier"))
        if ask.previous is None:
            return ask
        earlier = self.memory.recall(ask.previous)
        if earlier is None:
            message = f"Previous response with id '{ask.previous}' not found."
            raise Rejected(refusal(400, message, code="previous_response_not_found", param="previous_response_id"))
        return structs.replace(ask, messages=(*earlier, *ask.messages))

    def input_tokens(self, ask: Ask) -> int:
        """How many tokens the question has."""
        return input_tokens(ask, self._tokenizer)

    def answer(self, ask: Ask) -> ModelAnswer:
        """The answer with its usage. Raises Rejected where the question is too long."""
        cached = written = 0
        if self._settings.cached_share and len(ask.messages) > 1:
            prefix = without_sentence(ask.messages[0][1])
            tokens = MESSAGE_TOKENS + self._tokenizer.count(prefix)
            share = int(tokens * self._settings.cached_share)
            seen = self.memory.seen_prefix(ask.model, prefix)
            tells_writes = self._settings.models[ask.model].cache_write_per_mtok is not None
            cached, written = (share, 0) if seen else (0, share if tells_writes else 0)
        answered = answer_any(ask, self._settings, self._tokenizer, cached, written)
        limit = self._settings.models[ask.model].context_tokens
        if answered.usage.input_tokens > limit:
            message = f"This model's maximum context length is {limit} tokens, but the request has more."
            raise Rejected(refusal(400, message, code="context_length_exceeded", param="messages"))
        return answered

    def admit(
        self, endpoint: ApiEndpoint, key_name: str, ask: Ask, answered: ModelAnswer
    ) -> tuple[tuple[str, str], ...]:
        """Headers that tell the limits. Raises Rejected where one of them is reached."""
        settings = self._settings
        if settings.concurrency is not None and self.stats.in_flight >= settings.concurrency:
            self.stats.reject("concurrency")
            message = f"Too many concurrent requests: {settings.concurrency} are allowed."
            raise Rejected(
                structs.replace(refusal(429, message, code="rate_limit_exceeded"), headers=(("Retry-After", "1"),))
            )
        if settings.requests_per_minute is None and settings.tokens_per_minute is None:
            return ()
        now = time.monotonic()
        tokens = answered.usage.input_tokens + answered.usage.output_tokens
        verdict = self._limits.admit(key_name, ask.model, tokens, settings, now)
        headers: tuple[tuple[str, str], ...] = ()
        if settings.rate_limit_headers:
            headers = tuple(
                self._limits.headers(key_name, ask.model, settings, now, endpoint.shape == "anthropic")
            )
        if verdict.limited_by is None:
            return headers
        self.stats.reject(verdict.limited_by)
        wait = math.ceil(verdict.retry_after_seconds)
        problem = refusal(
            429, f"Rate limit of {verdict.limited_by} per minute reached.", code="rate_limit_exceeded"
        )
        raise Rejected(structs.replace(problem, headers=(("Retry-After", str(wait)), *headers)))

    def charge(
        self, answered: ModelAnswer, ask: Ask, endpoint: ApiEndpoint, key_name: str, sha256: str, outcome: str
    ) -> ModelAnswer:
        """Book it; the answer with its cost, where the gateway tells that. Raises Rejected without credit."""
        about = {
            "key_name": key_name,
            "endpoint": endpoint.path,
            "request_sha256": sha256,
            "outcome": outcome,
        }
        tier = self._served_tier(ask)
        price = self._tier_prices[ask.model].get(tier or "")
        if tier is not None and price is not None:
            about["service_tier"] = tier
        amount = charge_pico(price or self._prices[ask.model], answered.usage)
        booked = self._booked(answered, ask, amount, about)
        return structs.replace(booked, service_tier=tier) if self._settings.names_tier else booked

    def charge_batched(self, answered: ModelAnswer, ask: Ask, about: Mapping[str, str]) -> ModelAnswer:
        """As `charge`, at the price of batches; `about` are the fields of a Charge that name the request."""
        return self._booked(answered, ask, charge_pico(self._batch_prices[ask.model], answered.usage), about)

    def _booked(self, answered: ModelAnswer, ask: Ask, amount: int, about: Mapping[str, str]) -> ModelAnswer:
        settings = self._settings
        if self.ledger.balance_pico < amount:
            self.stats.reject("credit")
            raise Rejected(OUT_OF_CREDIT[settings.out_of_credit])
        self.ledger.charge(answered.usage, amount, model=ask.model, **about)
        if ask.store:
            instructions = ("system", ask.echo.get("instructions"))
            kept = tuple(message for message in ask.messages if message != instructions)
            self.memory.store(
                f"resp_{answered.id}", (*kept, ("assistant", answered.text)), settings.stored_responses
            )
        if settings.gateway_style not in ("openrouter", "litellm"):
            return answered
        return structs.replace(answered, cost_usd=usd_text(amount, settings))

    def _served_tier(self, ask: Ask) -> str | None:
        """Which service tier serves the request; None: nobody spoke of one."""
        asked = ask.service_tier or "auto"
        served = self._settings.served_tiers.get(asked, asked)
        if served != "auto":
            return served
        return None if ask.service_tier is None else "default"
