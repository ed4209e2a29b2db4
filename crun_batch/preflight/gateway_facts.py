"""What the gateways say before the start: their models, the balance, and whether they know the key."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from msgspec import Struct

from crun_batch.console.words import secret_phrases
from crun_batch.errors import EXIT_GATEWAY_REFUSED, RefusedToStart
from crun_batch.gateway.control import Balance, ControlClient, ControlFault, ModelInfo, list_models, read_balance
from crun_batch.load.job.job import Job
from crun_batch.load.job.secrets import key_in_words, secrets_sent
from crun_batch.options import Platform, RunOptions
from crun_batch.preflight.prices import Seller
from crun_batch.records import Halt
from crun_batch.workload.endpoint import Endpoint, endpoints_of
from crun_batch.workload.target import Target
from crun_batch.workload.workload import Workload

MOST_COMPARED = 5_000
"""Names of models that one name is compared with, to guess what was meant: a second at worst."""
WITHOUT_BALANCE = "set budget.credits: warn (or off)"


class GatewayOffer(Struct, frozen=True):
    """What the gateway said of itself. None: it has no such call, or was not asked."""

    models: tuple[ModelInfo, ...] | None = None
    balance: Balance | None = None
    balance_fault: str | None = None
    """There may be a balance; why the call for it failed."""
    notes: tuple[str, ...] = ()
    refusal: str | None = None
    """Why the gateway refuses this job already now: its key is not accepted."""
    is_complete: bool = False
    """Whether a model that is not in `models` is known not to exist."""


class GatewayFacts(Struct, frozen=True):
    """One gateway under one key: what it offers, the targets that it serves, and how each of them reaches it."""

    offer: GatewayOffer
    targets: tuple[Target, ...]
    """Variants and judges."""
    endpoints: tuple[Endpoint, ...]

    @property
    def job(self) -> Job:
        """One that names this gateway."""
        return self.targets[0].job


def sellers_of(gateways: Sequence[GatewayFacts]) -> list[Seller]:
    """The gateways as far as prices go."""
    return [
        Seller(
            facts.job.endpoint.base_url,
            facts.offer.models,
            frozenset(variant.job.model for variant in facts.targets),
        )
        for facts in gateways
    ]


def endpoints_by_target(gateways: Sequence[GatewayFacts]) -> list[Endpoint]:
    """The endpoints in the order of the variants, then the judges."""
    pairs = [
        (variant.index, endpoint)
        for facts in gateways
        for variant, endpoint in zip(facts.targets, facts.endpoints, strict=True)
    ]
    return [endpoint for _, endpoint in sorted(pairs, key=lambda pair: pair[0])]


def unlisted_models(facts: GatewayFacts) -> dict[str | None, str]:
    """The models that are asked for and that the gateway's list does not have, a sentence for each."""
    if facts.offer.models is None:
        return {}
    listed = {model.id for model in facts.offer.models}
    sentences: dict[str | None, str] = {}
    for name in dict.fromkeys(variant.job.model for variant in facts.targets):
        if name is None or _is_listed(name, listed):
            continue
        near = difflib.get_close_matches(name, listed, n=3) if len(listed) <= MOST_COMPARED else []
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it lists {len(listed):,} models"
        sentences[name] = f"the gateway does not list the model {name!r}{hint}"
    return sentences


def _is_listed(name: str, listed: set[str]) -> bool:
    """A listed id, a dated version of the name, or one that a wildcard covers."""
    return name in listed or any(
        model.startswith((f"{name}-", f"{name}:")) or (model.endswith("*") and name.startswith(model[:-1]))
        for model in listed
    )


async def ask_gateways(workload: Workload, options: RunOptions) -> tuple[GatewayFacts, ...]:
    """Every gateway that the job names, asked once under each key; it is said first who gets which.

    A simulator is started here. Raises InputError (a key is missing).
    """
    workload.start_gateway()
    endpoints = endpoints_of(workload.targets, options.environ, simulated=options.simulate)
    for phrase in secret_phrases(secrets_sent(target.job for target in workload.targets)):
        options.say(f"secrets: {phrase}")
    found: dict[tuple[str, Hashable], list[tuple[Target, Endpoint]]] = {}
    for variant, endpoint in zip(workload.targets, endpoints, strict=True):
        found.setdefault((variant.job.endpoint.base_url, endpoint.account), []).append((variant, endpoint))
    gateways = []
    for served in found.values():
        first, endpoint = served[0]
        offer = await ask(first.job, endpoint, options.platform)
        targets, reached_by = zip(*served, strict=True)
        gateways.append(GatewayFacts(offer, targets, reached_by))
    return tuple(gateways)


async def ask(job: Job, endpoint: Endpoint, platform: Platform) -> GatewayOffer:
    """Models and balance. What cannot be learned is said in the offer; a refused key is its `refusal`."""
    async with gateway_at(job.endpoint.base_url, endpoint, platform) as gateway:
        models = await list_models(gateway)
        if isinstance(models, ControlFault) and models.kind == "refused":
            return GatewayOffer(refusal=_refused_key(job, models))
        notes = (
            [f"the list of models cannot be read: {models.message}"] if isinstance(models, ControlFault) else []
        )
        balance = None if job.budget.credits == "off" else await read_balance(gateway)
    listed = None if isinstance(models, ControlFault) else models
    fault = f"the balance cannot be read: {balance.message}" if isinstance(balance, ControlFault) else None
    known = None if isinstance(balance, ControlFault) else balance
    is_crun = known is not None and known.source == "crun"
    return GatewayOffer(listed, known, fault, tuple(notes), is_complete=is_crun)


def gateway_at(base_url: str, endpoint: Endpoint, platform: Platform) -> ControlClient:
    """The control side of a gateway. Raises InputError where a proxy or certificates cannot be used."""
    url = base_url + endpoint.query
    gateway = ControlClient(url, endpoint.headers, ca_file=endpoint.ca_file, transport=platform.transport)
    return gateway.hiding(endpoint.redact.words)


def _refused_key(job: Job, fault: ControlFault) -> str:
    if job.endpoint.auth != "none":
        return f"the gateway does not accept {key_in_words(job)}: {fault.message}"
    advice = "add endpoint.api_key_env, the name of the variable that holds the key"
    return f"no key was sent, and the gateway wants one: {advice} ({fault.message})"


class Refusals(Struct, frozen=True):
    """Whom the gateways refuse already now: a key that is not accepted, an unknown model."""

    set_aside: Mapping[str, str]
    """Variant -> why it is set aside while the others are sent."""
    sentence: str | None
    """Why nothing may be sent; None: something may."""


def refusals_in(workload: Workload, gateways: Sequence[GatewayFacts]) -> Refusals:
    """What may not be sent. One variant of several is set aside, as `limits.on_variant_failure` says it.

    A judge that is refused stops all before the start: its answers would be paid for and not judged.
    """
    refused = {target.name: why for facts in gateways for target, why in _refused_targets(facts)}
    variants = {variant.name for variant in workload.variants}
    others_go_on = workload.job.limits.on_variant_failure == "set_aside" and refused.keys() < variants
    sentences = "; ".join(dict.fromkeys(refused.values())) or None
    return Refusals(refused, None) if others_go_on else Refusals({}, sentences)


def _refused_targets(facts: GatewayFacts) -> Iterator[tuple[Target, str]]:
    """Whom this gateway will refuse whatever is sent, with its reason."""
    unlisted = unlisted_models(facts) if facts.offer.is_complete else {}
    for target in facts.targets:
        if facts.offer.refusal is not None:
            yield target, facts.offer.refusal
        elif target.job.model in unlisted:
            yield target, unlisted[target.job.model]


def refusal_of(workload: Workload, gateways: Sequence[GatewayFacts], say: Callable[[str], None]) -> Halt | None:
    """Why nothing may be sent. What else is odd is said.

    Raises RefusedToStart where credits are required and the balance cannot be read.
    """
    sentence = refusals_in(workload, gateways).sentence
    for facts in gateways:
        for note in facts.offer.notes:
            say(note)
    if sentence is not None:
        return Halt(EXIT_GATEWAY_REFUSED, sentence)
    for facts in gateways:
        for doubt in _doubts(facts):
            say(doubt)
        fault = facts.offer.balance_fault
        if fault is not None and facts.job.budget.credits == "require":
            raise RefusedToStart(fault, advice=f"Try again, or {WITHOUT_BALANCE} to start without looking at it.")
        if fault is not None:
            say(fault)
    return None


def _doubts(facts: GatewayFacts) -> list[str]:
    """Models that a list does not have which need not be whole."""
    return [] if facts.offer.is_complete else list(unlisted_models(facts).values())


def remarks_on(facts: GatewayFacts) -> list[str]:
    """What an estimate says of this gateway beside refusals: what could not be asked, what is odd."""
    fault, is_required = facts.offer.balance_fault, facts.job.budget.credits == "require"
    remarks = list(facts.offer.notes)
    if fault is not None:
        remarks.append(f"{fault}; run needs it, or {WITHOUT_BALANCE}" if is_required else fault)
    return [*remarks, *_doubts(facts)]
