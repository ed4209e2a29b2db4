"""The gateway's decisions: a request comes in, its delivery goes out, and what was done is in the books.

Everything is decided at once, without a wait and without I/O but the ledger's line: check the key, read the
body, find the model, keep the limits, answer, charge, and let the faults have their way. Latency and damage are
only written into the delivery, which the connection plays.

A request is charged when it is accepted; whether its client is still there when the reply comes makes no
difference, as at a real gateway, where a POST that timed out may have been billed.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import orjson
from msgspec import structs

from crun_batch.simulator.asks import Ask, ModelAnswer
from crun_batch.simulator.batches.routes import BatchCall, BatchService, route_of
from crun_batch.simulator.connection import Delivery, ReceivedRequest, reply_bytes, whole
from crun_batch.simulator.control import CONTROLS, CRUN_BALANCE, SimulatedAccount
from crun_batch.simulator.deliveries import Body, Headers, deliver, with_error
from crun_batch.simulator.endpoints import ENDPOINTS
from crun_batch.simulator.endpoints.form import ApiEndpoint, data_line, named_event
from crun_batch.simulator.faults import check_kinds, code_of, drawn, is_charged, marked, status_of
from crun_batch.simulator.generation import Generation, Rejected
from crun_batch.simulator.ledger import Ledger
from crun_batch.simulator.refusals import Refusal, Shape, error_body, refusal
from crun_batch.simulator.settings import BASE_PATH, Settings, changed_settings, pico

_RETRY_AFTER_STATUSES = frozenset({429, 455, 503, 529})
_INVERSE_NORMAL = NormalDist().inv_cdf


class SimulatedGateway:
    """All that the gateway knows: settings, books, limits, what it remembers of earlier requests."""

    def __init__(
        self, settings: Settings, ledger: Ledger | None = None, epoch_seconds: Callable[[], float] = time.time
    ) -> None:
        check_kinds(settings)
        self.settings = settings
        self._generation = Generation(settings, ledger)
        self.ledger = self._generation.ledger
        self.stats = self._generation.stats
        self._key_names = {key: name for name, key in settings.keys.items()}
        self._shown = (self.ledger.balance_pico, -math.inf)
        self.batches = BatchService(self._generation, epoch_seconds)

    def handle(self, request: ReceivedRequest) -> Delivery:
        """The delivery for any request under the base path."""
        path = request.path.removeprefix(BASE_PATH)
        endpoint = ENDPOINTS.get(path) if path is not request.path else None
        if endpoint is not None and request.method == "POST":
            return self._generate(endpoint, request)
        batched = None if path is request.path else route_of(self.settings.gateway_style, request.method, path)
        if batched is not None:
            return self._batched(*batched, request)
        control = CONTROLS[self.settings.gateway_style].get(path) if path is not request.path else None
        if control is not None and request.method in ("GET", "HEAD"):
            return self._control(path, request)
        if endpoint is None and control is None:
            return self._refuse(refusal(404, f"Not found: {request.method} {request.path}"), "crun", request)
        allowed = (("Allow", "GET, HEAD" if endpoint is None else "POST"),)
        problem = structs.replace(refusal(405, "Method not allowed."), headers=allowed)
        return self._refuse(problem, "crun" if endpoint is None else endpoint.shape, request)

    def change(self, changes: Mapping[str, Any]) -> None:
        """Take on new settings, named as in Settings; raises InputError, and then nothing has changed."""
        settings = changed_settings(changes, base=self.settings)
        check_kinds(settings)
        self.settings = settings
        self._generation.take(settings)
        self._key_names = {key: name for name, key in settings.keys.items()}
        if "balance_credits" in changes:
            self.ledger.balance_pico = pico(settings.balance_credits)

    def _batched(self, call: BatchCall, name: str, request: ReceivedRequest) -> Delivery:
        key_name = self._key_name(request)
        if key_name is None:
            problem = refusal(401, "Incorrect API key provided.", code="invalid_api_key")
            return self._refuse(problem, call.shape, request)
        answer = self.batches.answer(call, name, key_name, request, self.settings)
        if isinstance(answer, Delivery):
            self.stats.count(request.path.replace(name, "{id}") if name else request.path, 200)
            return answer
        if isinstance(answer, str):
            self.stats.fault(answer)
            self.stats.count(request.path, 0)
            return Delivery([], "reset")
        return self._refuse(answer, call.shape, request)

    def _control(self, path: str, request: ReceivedRequest) -> Delivery:
        strict = path == CRUN_BALANCE and self.settings.balance_key == "x-api-key"
        if self._key_name(request, bearer=not strict) is None:
            return self._refuse(refusal(401, "Invalid API key."), "crun", request)
        self.stats.count(request.path, 200)
        account = SimulatedAccount(self.settings, self._shown_balance_pico(), self.ledger.charged_pico)
        body = orjson.dumps(CONTROLS[self.settings.gateway_style][path](account))
        return whole(request, reply_bytes(200, body))

    def _shown_balance_pico(self) -> int:
        now = time.monotonic()
        if now - self._shown[1] >= self.settings.balance_lag_seconds:
            self._shown = (self.ledger.balance_pico, now)
        return self._shown[0]

    def _key_name(self, request: ReceivedRequest, bearer: bool = True) -> str | None:
        key = request.headers.get("x-api-key", "")
        authorization = request.headers.get("authorization", "")
        if not key and bearer and authorization[:7].lower() == "bearer ":
            key = authorization[7:].strip()
        if self._key_names:
            return self._key_names.get(key)
        return "simulated" if key.startswith("ak_sim") else None

    def _refuse(self, problem: Refusal, shape: Shape, request: ReceivedRequest) -> Delivery:
        self.stats.count(request.path, problem.status)
        body = orjson.dumps(error_body(problem, shape, f"req_{self.stats.requests}"))
        return whole(request, reply_bytes(problem.status, body, headers=problem.headers))

    def _generate(self, endpoint: ApiEndpoint, request: ReceivedRequest) -> Delivery:
        try:
            return self._accept(endpoint, request)
        except Rejected as refused:
            return self._refuse(refused.problem, endpoint.shape, request)

    def _accept(self, endpoint: ApiEndpoint, request: ReceivedRequest) -> Delivery:
        key_name = self._key_name(request)
        if key_name is None:
            raise Rejected(refusal(401, "Incorrect API key provided.", code="invalid_api_key"))
        ask = self._generation.read(endpoint, request.body)
        answered = self._generation.answer(ask)
        headers = self._generation.admit(endpoint, key_name, ask, answered)
        digest = hashlib.sha256(request.body)
        fault = self._fault(request.body, digest.digest())
        if fault is not None:
            self.stats.fault(fault)
            if not is_charged(fault) and fault != "error_in_200" and not self._billed(fault):
                return self._fail(fault, endpoint, request)
        if fault != "error_in_200":
            answered = self._generation.charge(
                answered, ask, endpoint, key_name, digest.hexdigest(), fault or "answered"
            )
            if fault is not None and not is_charged(fault):
                return self._fail(fault, endpoint, request)
        wait = latency_seconds(self.settings, digest.digest())
        return self._deliver(endpoint, ask, answered, fault, wait, headers)

    def _fault(self, body: bytes, digest: bytes) -> str | None:
        is_marked = self.settings.fault_markers and b"[[fault:" in body
        if not is_marked and not self.settings.faults:
            return None
        attempt = self._generation.memory.next_attempt(digest)
        ordered = marked(body.decode("utf-8", "replace"), attempt) if is_marked else None
        return ordered or drawn(self.settings, digest, attempt)

    def _billed(self, fault: str) -> bool:
        return self.settings.bill_errors and (status_of(fault) or 0) >= 500

    def _fail(self, fault: str, endpoint: ApiEndpoint, request: ReceivedRequest) -> Delivery:
        if fault in ("reset_before", "close_before"):
            self.stats.count(request.path, 0)
            return Delivery([], "reset" if fault == "reset_before" else "close")
        code = code_of(fault)
        if code is not None:
            problem = structs.replace(refusal(code), status=200, code=code, shape="crun")
        elif fault == "content_filter":
            problem = refusal(400, "The request was refused by the content filter.", code="content_filter")
        else:
            problem = refusal(status_of(fault) or 500)
            if fault == "455":
                problem = structs.replace(problem, shape="crun")
        wait = self.settings.fault_retry_after_seconds
        if wait is not None and problem.status in _RETRY_AFTER_STATUSES:
            problem = structs.replace(problem, headers=(("Retry-After", f"{wait:g}"),))
        return self._refuse(problem, endpoint.shape, request)

    def _deliver(
        self,
        endpoint: ApiEndpoint,
        ask: Ask,
        answered: ModelAnswer,
        fault: str | None,
        wait: float,
        headers: Headers,
    ) -> Delivery:
        settings = self.settings
        streamed = ask.stream and endpoint.events is not None
        if streamed and endpoint.events is not None:
            pieces = endpoint.events(ask, answered, settings)
        else:
            pieces = [orjson.dumps(endpoint.reply(ask, answered))]
        if answered.cost_usd is not None and settings.gateway_style == "litellm":
            headers = (*headers, ("x-litellm-response-cost", answered.cost_usd))
        writing = answered.usage.output_tokens / settings.tokens_per_second if settings.tokens_per_second else 0.0
        body = Body(pieces, streamed, wait, writing, headers)
        if fault == "error_in_200":
            body, fault = with_error(body, self._error_piece(endpoint, streamed)), None
        self.stats.begin(f"{BASE_PATH}{endpoint.path}")
        return deliver(body, fault, settings, self.stats.end)

    def _error_piece(self, endpoint: ApiEndpoint, streamed: bool) -> bytes:
        error = error_body(refusal(502, "The upstream provider failed."), endpoint.shape, "req_0")
        if not streamed:
            return orjson.dumps(error)
        return data_line(error) if endpoint.error_event is None else named_event(endpoint.error_event, error)


def latency_seconds(settings: Settings, digest: bytes) -> float:
    """Time to the first byte of the reply to the request with that digest."""
    if not settings.latency_sigma:
        return settings.latency_seconds
    share = (int.from_bytes(digest[:8]) + 0.5) / 2**64
    return settings.latency_seconds * math.exp(settings.latency_sigma * _INVERSE_NORMAL(share))
