"""What the gateways say before the start: their models, the balance, and whether they know the key."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from msgspec import Struct, structs

from crun_batch.console.secret_words import secret_phrases
from crun_batch.errors import EXIT_GATEWAY_REFUSED, RefusedToStart
from crun_batch.gateway.control import Balance, ControlFault, ModelInfo, list_models, read_balance
from crun_batch.load.job.job import Job
from crun_batch.load.job.secrets import key_in_words, secrets_sent
from crun_batch.options import Platform, RunOptions
from crun_batch.preflight.batch_offer import without_batches
from crun_batch.preflight.prices import Seller
from crun_batch.records import Halt
from crun_batch.workload.endpoint import Endpoint, endpoints_of
from crun_batch.workload.target import Target
from crun_batch.workload.workload import Workload

MOST_COMPARED = 5_000
"""Names of models that one name is compared with, to guess what was meant: a second at worst."""
SILENT_SECONDS = 5.0
"""A gateway that has not told after so long what it offers is named: it may be silent for minutes."""
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
    not_asked: str | None = None
    """Why it was not asked, where that is no mistake: an estimate sends nothing and needs no key."""
    is_complete: bool = False
    """Whether a model that is not in `models` is known not to exist."""
    is_unreached: bool = False
    """The fault is of the way there and will be so each time, until somebody changes something."""


class GatewayFacts(Struct, frozen=True):
    """One gateway under one key: what it offers, the targets that it serves, and how each of them reaches it."""

    offer: GatewayOffer
    targets: tuple[Target, ...]
    """Variants and judges, each at the one endpoint that leads here."""
    endpoints: tuple[Endpoint, ...]

    @property
    def job(self) -> Job:
        """One that names this gateway."""
        return self.targets[0].job

    @property
    def endpoint_name(self) -> str | None:
        """What it is called where it has a name."""
        return self.targets[0].endpoint_name

    def named(self, sentence: str) -> str:
        """The sentence with the endpoint's name before it, where it has one."""
        return named(sentence, self.endpoint_name)


def named(sentence: str, endpoint: str | None) -> str:
    """The sentence, with the name of its endpoint where it has one."""
    return sentence if endpoint is None else f"endpoint {endpoint}: {sentence}"


def sellers_of(gateways: Sequence[GatewayFacts]) -> list[Seller]:
    """The gateways as far as prices go."""
    sellers: dict[tuple[int, str | None], Seller] = {}
    for number, facts in enumerate(gateways):
        for target in facts.targets:
            key, asked = (number, target.endpoint_name), target.job.model
            known = sellers.get(key)
            models = {asked} if known is None else {asked, *known.asked}
            sellers[key] = Seller(target.job, facts.offer.models, frozenset(models))
    return list(sellers.values())


class TargetAtEndpoint(Struct, frozen=True):
    """A target at one of its endpoints, and how it is reached there."""

    target: Target
    endpoint: Endpoint


Ways = tuple[TargetAtEndpoint, ...]
"""To one target: one, or one for each endpoint of a list, in its order."""


def ways_by_target(gateways: Sequence[GatewayFacts], targets: Sequence[Target]) -> list[Ways]:
    """The ways to each target."""
    found = {
        (target.index, target.endpoint_name): TargetAtEndpoint(target, endpoint)
        for facts in gateways
        for target, endpoint in zip(facts.targets, facts.endpoints, strict=True)
    }
    return [tuple(found[one.index, at.endpoint_name] for at in one.at_each_endpoint) for one in targets]


def unlisted_models(facts: GatewayFacts) -> dict[str | None, str]:
    """The models that are asked for and that the gateway's list does not have, a sentence for each."""
    if facts.offer.models is None:
        return {}
    listed = {_bare(model.id) for model in facts.offer.models}
    sentences: dict[str | None, str] = {}
    for name in dict.fromkeys(variant.job.model for variant in facts.targets):
        if name is None or _is_listed(_bare(name), listed):
            continue
        near = difflib.get_close_matches(name, listed, n=3) if len(listed) <= MOST_COMPARED else []
        hint = (
            f"; did you mean {' or '.join(near)}?"
            if near
            else f"; it lists {len(listed):,} model{'s' * (len(listed) != 1)}"
        )
        sentences[name] = f"the gateway does not list the model {name!r}{hint}"
    return sentences


def _bare(model: str) -> str:
    """The name as a job asks for it: Gemini lists `models/gemini-3-flash`, and takes it with and without."""
    return model.removeprefix("models/")


def _is_listed(name: str, listed: set[str]) -> bool:
    """A listed id, a dated version of the name, or one that a wildcard covers."""
    return name in listed or any(
        model.startswith((f"{name}-", f"{name}:")) or (model.endswith("*") and name.startswith(model[:-1]))
        for model in listed
    )


async def ask_gateways(
    workload: Workload, options: RunOptions, *, may_lack_keys: bool = False
) -> tuple[GatewayFacts, ...]:
    """Every gateway that the job names, asked once under each key; it is said first who gets which.

    A simulator is started here. Raises InputError (a key is missing); with `may_lack_keys`, a gateway without its
    key is not asked, and says so.
    """
    workload.start_gateway()
    asked = [at for target in workload.targets for at in target.at_each_endpoint]
    endpoints = endpoints_of(asked, options.environ, simulated=options.simulate, may_lack=may_lack_keys)
    for phrase in secret_phrases(secrets_sent(at.job for at in asked)):
        options.say(f"secrets: {phrase}")
    found: dict[tuple[str, Hashable], list[tuple[Target, Endpoint]]] = {}
    for variant, endpoint in zip(asked, endpoints, strict=True):
        found.setdefault((variant.job.endpoint.base_url, endpoint.account), []).append((variant, endpoint))
    gateways = []
    for served in found.values():
        first, endpoint = served[0]
        slow = f"still asking {first.job.endpoint.base_url} for {_asked_of(first.job)}; nothing is sent yet"
        told = asyncio.get_running_loop().call_later(SILENT_SECONDS, options.say, slow)
        try:
            offer = await ask(first.job, endpoint, options.platform)
        finally:
            told.cancel()
        if offer.not_asked is None and offer.refusal is None:
            without = await without_batches(served, options.platform, options.clock)
            offer = structs.replace(offer, refusal=without)
        targets, reached_by = zip(*served, strict=True)
        gateways.append(GatewayFacts(offer, targets, reached_by))
    return tuple(gateways)


async def ask(job: Job, endpoint: Endpoint, platform: Platform) -> GatewayOffer:
    """Models and balance. What cannot be learned is said in the offer; a refused key is its `refusal`."""
    if endpoint.lacks is not None:
        sentence = f"{endpoint.lacks}: the gateway was not asked for {_asked_of(job)}; run needs it"
        return GatewayOffer(not_asked=sentence)
    async with endpoint.control_client(job.endpoint.base_url, platform.transport) as gateway:
        models = await list_models(gateway)
        if isinstance(models, ControlFault) and models.kind == "refused":
            return GatewayOffer(refusal=_refused_key(job, models))
        if isinstance(models, ControlFault) and models.is_lasting:
            return _unreached(job, models)
        notes = (
            [f"the list of models cannot be read: {models.message}"] if isinstance(models, ControlFault) else []
        )
        balance = None if job.budget.credits == "off" else await read_balance(gateway)
    listed = None if isinstance(models, ControlFault) else models
    fault = f"the balance cannot be read: {balance.message}" if isinstance(balance, ControlFault) else None
    known = None if isinstance(balance, ControlFault) else balance
    is_crun = known is not None and known.source == "crun"
    return GatewayOffer(listed, known, fault, tuple(notes), is_complete=is_crun)


def _asked_of(job: Job) -> str:
    return "its models" if job.budget.credits == "off" else "its models and balance"


def _unreached(job: Job, fault: ControlFault) -> GatewayOffer:
    """Said once: the balance could not be asked for either."""
    sentence = f"the gateway cannot be reached: {fault.message}"
    if job.budget.credits == "off":
        return GatewayOffer(notes=(sentence,))
    return GatewayOffer(balance_fault=sentence, is_unreached=True)


def _refused_key(job: Job, fault: ControlFault) -> str:
    if job.endpoint.auth != "none":
        return f"the gateway does not accept {key_in_words(job)}: {fault.message}"
    advice = "add endpoint.api_key_env, the name of the variable that holds the key"
    return f"no key was sent, and the gateway wants one: {advice} ({fault.message})"


class Refusals(Struct, frozen=True):
    """Whom the gateways refuse already now: a key that is not accepted, an unknown model."""

    set_aside: Mapping[str, str]
    """Variant -> why it is set aside while the others are sent."""
    left_out: Mapping[tuple[str, str], Halt]
    """(Variant or judge, endpoint of its list) -> why that one is left out while the others are sent to."""
    sentence: str | None
    """Why nothing may be sent; None: something may."""


def refusals_in(workload: Workload, gateways: Sequence[GatewayFacts]) -> Refusals:
    """What may not be sent. One variant of several is set aside, as `limits.on_variant_failure` says it.

    A judge that is refused stops all before the start: its answers would be paid for and not judged.
    """
    left_out = {
        (target.name, target.endpoint_name): why for facts in gateways for target, why in _refused_targets(facts)
    }
    refused: dict[str, str] = {}
    for target in workload.targets:
        names = [at.endpoint_name for at in target.at_each_endpoint]
        reasons = {name: why for name in names if (why := left_out.get((target.name, name))) is not None}
        if len(reasons) == len(names):
            refused[target.name] = "; ".join(named(why, name) for name, why in reasons.items())
    others = {
        (target, name): Halt(EXIT_GATEWAY_REFUSED, why)
        for (target, name), why in left_out.items()
        if name is not None and target not in refused
    }
    variants = {variant.name for variant in workload.variants}
    others_go_on = workload.job.limits.on_variant_failure == "set_aside" and refused.keys() < variants
    sentences = "; ".join(dict.fromkeys(refused.values())) or None
    return Refusals(refused, others, None) if others_go_on else Refusals({}, others, sentences)


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
            say(facts.named(note))
    if sentence is not None:
        return Halt(EXIT_GATEWAY_REFUSED, sentence)
    for facts in gateways:
        for doubt in _doubts(facts):
            say(facts.named(doubt))
        fault = facts.offer.balance_fault
        if fault is not None and _must_be_read(facts, gateways):
            again = f"{_once_more(fault)}, or {WITHOUT_BALANCE} to start without looking at it."
            advice = "" if facts.offer.is_unreached else again
            raise RefusedToStart(facts.named(fault), advice=advice)
        if fault is not None:
            say(facts.named(fault))
    return None


def _once_more(fault: str) -> str:
    """What is to be done about a balance that cannot be read; where nothing was reached, what to look at first."""
    if "no connection" not in fault:
        return "Try again"
    return f"Is {'that proxy' if 'the proxy ' in fault else 'endpoint.base_url'} right? Then try again"


def _must_be_read(facts: GatewayFacts, gateways: Sequence[GatewayFacts]) -> bool:
    """Whether a balance that cannot be read refuses the start: not where others of its list can be asked."""
    return facts.job.budget.credits == "require" and not any(
        one.offer.balance_fault is None and one.offer.refusal is None for one in beside(facts, gateways)
    )


def beside(facts: GatewayFacts, gateways: Sequence[GatewayFacts]) -> list[GatewayFacts]:
    """The other gateways to which the same rows may go."""
    indexes = {target.index for target in facts.targets}
    return [one for one in gateways if one is not facts and indexes & {target.index for target in one.targets}]


def _doubts(facts: GatewayFacts) -> list[str]:
    """Models that a list does not have which need not be whole."""
    return [] if facts.offer.is_complete else list(unlisted_models(facts).values())


def remarks_on(facts: GatewayFacts, gateways: Sequence[GatewayFacts]) -> list[str]:
    """What an estimate says of this gateway beside refusals: what could not be asked, what is odd."""
    fault, is_required = facts.offer.balance_fault, _must_be_read(facts, gateways)
    remarks = [*facts.offer.notes, *([] if facts.offer.not_asked is None else [facts.offer.not_asked])]
    if fault is not None:
        is_asked_for = is_required and not facts.offer.is_unreached
        remarks.append(f"{fault}; run needs it, or {WITHOUT_BALANCE}" if is_asked_for else fault)
    return [facts.named(remark) for remark in (*remarks, *_doubts(facts))]
