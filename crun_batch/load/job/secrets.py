"""The secrets of a job: its API key and the headers that come from the environment, read when a run starts.

Owns the only values that must never be written. They have no repr and stand in no message: what is missing or
malformed is told by the name of its variable or file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import structs

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.endpoint_sections import EndpointSpec
from crun_batch.load.job.env_file import variables_of
from crun_batch.load.job.job import Job
from crun_batch.load.job.rules import HEADER_VARIABLE
from crun_batch.records import Headers

MAX_KEY_FILE_BYTES = 65_536


class Secrets:
    """The API key (None: none is sent) and the job's own headers with their variables filled in.

    `hidden` is what must never be written: the key and the variables' values. What the job file itself says of a
    header is no secret.
    """

    __slots__ = ("headers", "hidden", "key")

    def __init__(self, key: str | None, headers: dict[str, str], variables: Iterable[str] = ()) -> None:
        self.key = key
        self.headers = Headers(headers)
        self.hidden = tuple(value for value in dict.fromkeys((key or "", *variables)) if value)

    def __repr__(self) -> str:
        return "Secrets(...)"


def resolve_secrets(job: Job, environ: Mapping[str, str]) -> Secrets:
    """Read the job's key and header variables. Raises InputError that names all that are missing or unusable."""
    environ = _variables(job, environ)
    mistakes: list[Mistake] = []
    key = _key(job, environ, mistakes)
    headers = {
        name: _filled(name, template, job, environ, mistakes) for name, template in job.endpoint.headers.items()
    }
    if mistakes:
        raise InputError(mistakes)
    named = {name for template in job.endpoint.headers.values() for name in HEADER_VARIABLE.findall(template)}
    return Secrets(key, headers, (environ[name].strip() for name in sorted(named)))


def named_variables(job: Job) -> list[str]:
    """Every variable that the job names as a secret: for its endpoints, its judges, `on_end`."""
    endpoints = [at.endpoint for at in job.at_each_endpoint]
    endpoints += [spec.endpoint for spec in job.score if spec.endpoint is not None]
    found = [name for one in endpoints for name in _variables_in(one)]
    return list(dict.fromkeys([*found, *([job.on_end.webhook_env] if job.on_end.webhook_env else [])]))


def _variables_in(endpoint: EndpointSpec) -> list[str]:
    named = [endpoint.api_key_env] if endpoint.api_key_env is not None else []
    return named + [name for template in endpoint.headers.values() for name in HEADER_VARIABLE.findall(template)]


def unset_variables(job: Job, environ: Mapping[str, str]) -> list[str]:
    """The variables that the job's key and headers come from and that are not set, by their names."""
    try:
        environ = _variables(job, environ)
    except InputError:  # which is what there is to say
        return []
    endpoint = job.endpoint
    key = [endpoint.api_key_env] if endpoint.api_key_env is not None and endpoint.api_key_file is None else []
    headers = [name for template in endpoint.headers.values() for name in HEADER_VARIABLE.findall(template)]
    return [name for name in dict.fromkeys([*key, *headers]) if not environ.get(name, "").strip()]


def key_in_words(job: Job) -> str:
    """Which key is sent, and where to change it."""
    endpoint = job.endpoint
    if endpoint.api_key_file is not None:
        return f"the key in {job.base_dir / Path(endpoint.api_key_file).expanduser()}"
    if endpoint.api_key_env is not None:
        return f"the key in the variable {endpoint.api_key_env}"
    return "requests without a key (add endpoint.api_key_env, the name of the variable that holds it)"


def secrets_sent(jobs: Iterable[Job]) -> list[dict[str, str]]:
    """Which secrets of this machine go where, each once: `name` (a variable, or a file), `as`, `base_url`.

    Names only, and without a look at their values: so that who did not write the job sees it before it runs.
    """
    found: dict[tuple[str, str, str], None] = {}
    for endpoint in (at.endpoint for job in jobs for at in job.at_each_endpoint):
        key = endpoint.api_key_file or endpoint.api_key_env
        if key is not None:
            found[key, "key", endpoint.base_url] = None
        for header, template in endpoint.headers.items():
            for variable in HEADER_VARIABLE.findall(template):
                found[variable, f"header {header}", endpoint.base_url] = None
    return [{"name": name, "as": use, "base_url": base_url} for name, use, base_url in found]


def _key(job: Job, environ: Mapping[str, str], mistakes: list[Mistake]) -> str | None:
    endpoint = job.endpoint
    if endpoint.api_key_file is not None:
        path = job.base_dir / Path(endpoint.api_key_file).expanduser()
        return _sendable(_key_file_text(path, job, mistakes), f"the key in {path}", "api_key_file", job, mistakes)
    if endpoint.api_key_env is None:
        return None
    name = endpoint.api_key_env
    key = environ.get(name, "").strip()
    if not key:
        says = f"the variable {name} is not set: put the API key into it (export {name}=...)"
        mistakes.append(_mistake(says, "api_key_env", job))
    return _sendable(key, f"the variable {name}", "api_key_env", job, mistakes)


def _key_file_text(path: Path, job: Job, mistakes: list[Mistake]) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_KEY_FILE_BYTES).decode().strip()
    except UnicodeDecodeError:
        mistakes.append(_mistake(f"{path} is not text", "api_key_file", job))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no usable path"
        mistakes.append(_mistake(f"{path} cannot be read: {reason}", "api_key_file", job))
    else:
        if not text:
            mistakes.append(_mistake(f"{path} is empty: it must hold the key", "api_key_file", job))
        return text
    return ""


def _filled(name: str, template: str, job: Job, environ: Mapping[str, str], mistakes: list[Mistake]) -> str:
    variables = HEADER_VARIABLE.findall(template)
    for variable in dict.fromkeys(variables):
        if not environ.get(variable):
            says = f"the variable {variable} is not set"
            mistakes.append(_mistake(says, f"headers.{name}", job))
    value = HEADER_VARIABLE.sub(lambda match: environ.get(match[1], "").strip(), template)
    what = f"the header with {', '.join(variables)}" if variables else "the header"
    return _sendable(value, what, f"headers.{name}", job, mistakes)


def _sendable(value: str, what: str, key: str, job: Job, mistakes: list[Mistake]) -> str:
    """The value, which must be one line of printable ASCII: anything else cannot stand in a header."""
    if not all(" " <= character <= "~" or character == "\t" for character in value):
        says = f"{what} holds a line break or a character that no header can carry"
        mistakes.append(_mistake(says, key, job))
    return value


def _variables(job: Job, environ: Mapping[str, str]) -> Mapping[str, str]:
    """Those that count. Raises InputError with what is wrong with the job's `env_file`, and where it is named."""
    try:
        return variables_of(job.env_file, job.base_dir, environ)
    except InputError as error:
        unread = [one for one in error.mistakes if one.line is None]
        if not unread:
            raise
        raise InputError(job.document.mistake(("env_file",), f"{unread[0].file}: {unread[0].message}")) from None


def _mistake(says: str, key: str, job: Job) -> Mistake:
    """A mistake in the job's endpoint, in the file and line where it is written, be that a profile's."""
    found = job.document.mistake(("endpoint", *key.split(".", 1)), says)
    return structs.replace(found, key=f"{job.endpoint_key}.{key}")
