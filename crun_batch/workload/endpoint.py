"""The gateway's side of a run: where it is, and what goes into the headers of every request.

Owns the key: it is read here, put into headers here, and known to nothing that writes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.gateway.control import ControlClient, auth_headers
from crun_batch.load.job.addresses import query_text
from crun_batch.load.job.job import Job
from crun_batch.load.job.secrets import Secrets, unset_variables
from crun_batch.records import Headers
from crun_batch.workload.redaction import Redactor
from crun_batch.workload.target import Target

if TYPE_CHECKING:
    import httpx

SIMULATOR_KEY = "ak_sim"
PROTOCOL_HEADERS = frozenset({"content-type", "anthropic-version"})


class Endpoint(Struct, frozen=True):
    """Where requests go, with headers that hold the key; `redact` takes it out of what is recorded."""

    headers: Mapping[str, str]
    redact: Redactor
    ca_file: Path | None = None
    """Trusted besides the system's certificates."""
    query: str = ""
    """What follows the path of every call, the control calls' too."""
    lacks: str | None = None
    """Which of its secrets is not there, where it was asked for without: nothing can be sent."""

    @property
    def account(self) -> Hashable:
        """The same for requests that a gateway counts together, whatever their protocol."""
        own = sorted(item for item in self.headers.items() if item[0].lower() not in PROTOCOL_HEADERS)
        return (self.lacks, *own)

    def control_client(self, base_url: str, transport: httpx.AsyncBaseTransport | None = None) -> ControlClient:
        """The gateway's control side. Raises InputError: a proxy or certificates that cannot be used."""
        url = base_url + self.query
        client = ControlClient(url, self.headers, ca_file=self.ca_file, transport=transport)
        return client.hiding(self.redact.words)

    def __repr__(self) -> str:
        return "Endpoint(...)"


def endpoint_of(job: Job, environ: Mapping[str, str], *, simulated: bool) -> Endpoint:
    """Of the job's only or first endpoint. Raises InputError where the key or a header's variable is missing."""
    (endpoint,) = endpoints_of([Target(0, job.name, job.at_each_endpoint[0])], environ, simulated=simulated)
    return endpoint


def endpoints_of(
    asked: Sequence[Target], environ: Mapping[str, str], *, simulated: bool, may_lack: bool = False
) -> tuple[Endpoint, ...]:
    """One for each who is asked, at one endpoint; each redacts the secrets of all.

    Raises InputError, as `endpoint_of` does; with `may_lack`, what is missing is said in the endpoint.
    """
    if simulated:
        headers = Headers({**auth_headers("bearer", SIMULATOR_KEY), "content-type": "application/json"})
        return tuple(Endpoint(headers, Redactor(())) for _ in asked)
    lacks = [_lacks(one, environ) if may_lack else None for one in asked]
    secrets = [
        one.secrets(environ) if lack is None else Secrets(None, {}) for one, lack in zip(asked, lacks, strict=True)
    ]
    redact = Redactor([value for one in secrets for value in one.hidden])
    return tuple(
        Endpoint(_headers(one.job, own), redact, ca_file_of(one.job), query_text(one.job.endpoint.query), lack)
        for one, own, lack in zip(asked, secrets, lacks, strict=True)
    )


def _lacks(one: Target, environ: Mapping[str, str]) -> str | None:
    """Why the secrets of this endpoint cannot be read, in words; None: they can."""
    try:
        one.secrets(environ)
    except InputError as error:
        unset = unset_variables(one.job, environ)
        verb = "is" if len(unset) == 1 else "are"
        return (
            f"{', '.join(unset)} {verb} not set" if unset else "; ".join(found.message for found in error.mistakes)
        )
    return None


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
