"""The gateway's side of a run: the real one, or the bundled simulator started for this run.

Owns the key: it is read here, put into headers here, and known to nothing that writes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec import Struct

from crun_batch.gateway.control import auth_headers
from crun_batch.load.job.addresses import query_text
from crun_batch.load.job.job import Job
from crun_batch.load.job.secrets import Secrets
from crun_batch.load.job.sweep import variations
from crun_batch.records import Headers
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.simulator.settings import MODELS, Model, Settings, read_settings
from crun_batch.workload.redaction import Redactor
from crun_batch.workload.target import Target

SIMULATOR_KEY = "ak_sim"
SIMULATED_BALANCE_CREDITS = Decimal(1_000_000_000)
PROTOCOL_HEADERS = frozenset({"content-type", "anthropic-version"})


class Endpoint(Struct, frozen=True):
    """Where requests go, with headers that hold the key; `redact` takes it out of what is recorded."""

    headers: Mapping[str, str]
    redact: Redactor
    ca_file: Path | None = None
    """Trusted besides the system's certificates."""
    query: str = ""
    """What follows the path of every call, the control calls' too."""

    @property
    def account(self) -> Hashable:
        """The same for requests that a gateway counts together, whatever their protocol."""
        return tuple(sorted(item for item in self.headers.items() if item[0].lower() not in PROTOCOL_HEADERS))

    def __repr__(self) -> str:
        return "Endpoint(...)"


def endpoint_of(job: Job, environ: Mapping[str, str], *, simulated: bool) -> Endpoint:
    """Raises InputError where the key or a header's variable is missing."""
    (endpoint,) = endpoints_of([Target(0, job.name, job)], environ, simulated=simulated)
    return endpoint


def endpoints_of(asked: Sequence[Target], environ: Mapping[str, str], *, simulated: bool) -> tuple[Endpoint, ...]:
    """One for each who is asked; each redacts the secrets of all. Raises InputError, as `endpoint_of` does."""
    if simulated:
        headers = Headers({**auth_headers("bearer", SIMULATOR_KEY), "content-type": "application/json"})
        return tuple(Endpoint(headers, Redactor(())) for _ in asked)
    secrets = [one.secrets(environ) for one in asked]
    redact = Redactor([value for one in secrets for value in one.hidden])
    return tuple(
        Endpoint(_headers(one.job, own), redact, ca_file_of(one.job), query_text(one.job.endpoint.query))
        for one, own in zip(asked, secrets, strict=True)
    )


def ca_file_of(job: Job) -> Path | None:
    """The file that `endpoint.ca_file` names."""
    name = job.endpoint.ca_file
    return None if name is None else job.base_dir / Path(name).expanduser()


def ca_files_of(targets: Sequence[Target]) -> dict[str, Path]:
    """URL -> the certificates that are trusted there besides the system's."""
    return {one.url: path for one in targets if (path := ca_file_of(one.job)) is not None}


def _headers(job: Job, secrets: Secrets) -> Headers:
    headers = Headers({**secrets.headers, **auth_headers(job.endpoint.auth, secrets.key)})
    if job.endpoint.protocol == "messages" and not any(name.lower() == "anthropic-version" for name in headers):
        headers["anthropic-version"] = "2023-06-01"
    return Headers({**headers, "content-type": "application/json"})


@contextmanager
def simulated(job: Job, settings: Mapping[str, Any]) -> Iterator[Mapping[str, object]]:
    """Keys that point a job, and each of its variants, at a simulator for as long as the context lasts.

    It offers the models of all variants and judges, at the job's prices.
    """
    with SimulatorProcess(read_settings(settings, base=_settings_for(job))) as simulator:
        yield {"endpoint.base_url": simulator.base_url, **_without_key()}


def _without_key() -> dict[str, object]:
    return {
        "endpoint.auth": "none",
        "endpoint.api_key_env": None,
        "endpoint.api_key_file": None,
        "endpoint.ca_file": None,
        "endpoint.headers": {},
        "endpoint.query": {},
    }


def _settings_for(job: Job) -> Settings:
    priced = {name: _simulated_model(spec, job) for name, spec in job.prices.models.items()}
    models = {**MODELS, **priced}
    asked = [*(variation.job.model for variation in variations(job)), *(spec.model for spec in job.score)]
    for name in asked:
        if name is not None:
            models.setdefault(name, Model())
    return Settings(models=models, balance_credits=SIMULATED_BALANCE_CREDITS)


def _simulated_model(spec: Any, job: Job) -> Model:
    """The job's price in credits, as the simulator charges; dollars by credits_per_usd, or one for one."""
    factor = 1 if spec.currency == "credits" else (job.prices.credits_per_usd or 1)

    def amount(value: Any) -> Any:
        return None if value is None else round(value * factor, 6)

    return Model(
        input_per_mtok=amount(spec.input_per_mtok),
        output_per_mtok=amount(spec.output_per_mtok),
        cached_input_per_mtok=amount(spec.cached_input_per_mtok),
        cache_write_per_mtok=amount(spec.cache_write_per_mtok),
        minimum_per_request=amount(spec.minimum_per_request or 0),
    )
