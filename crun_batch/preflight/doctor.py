"""`doctor`: is this machine ready, does the gateway answer, is the key accepted. Sends no prompt.

Owns what is looked at, in which order, and what to do about each finding. A finding is a value: nothing that is
wrong here ends the others.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, structs

from crun_batch.errors import InputError
from crun_batch.gateway.control import Balance, ControlFault, list_models, read_balance
from crun_batch.gateway.http.addresses import target_of
from crun_batch.gateway.http.descriptors import ensure_file_descriptors
from crun_batch.gateway.http.proxies import proxy_for
from crun_batch.gateway.http.trust import FILE, FOLDER, client_context
from crun_batch.load.job.job import Job
from crun_batch.load.job.judges import judge_jobs
from crun_batch.load.job.secrets import key_in_words
from crun_batch.options import RunOptions
from crun_batch.records import decimal_text, pico_of
from crun_batch.workload.endpoint import ca_file_of, endpoint_of

LIBRARIES = (
    *("polars", "pyarrow", "duckdb", "pydantic", "msgspec", "orjson", "minijinja"),
    *("jsonschema_rs", "httptools", "ruamel.yaml", "genai_prices", "tenacity", "uvloop"),
)
"""Modules that a run cannot do without; most have compiled parts. uvloop is for Linux and macOS, all we run on."""
LITTLE_ROOM_BYTES = 2**30
MOST_SKEW_SECONDS = 30.0
"""Beyond, moments in the results and Retry-After dates are told wrong; certificates fail only at days."""
CHILD_SECONDS = 120.0
LOAD_EACH = """
import importlib, sys
for name in sys.argv[1:]:
    print(name, flush=True)
    importlib.import_module(name)
"""
Level = Literal["good", "note", "problem"]


class Diagnosis(Struct, frozen=True):
    """One thing that was looked at. `note`: it may be meant so. `problem`: a run would fail, or tell lies."""

    about: str
    level: Level
    says: str
    advice: str | None = None


async def diagnose(job: Job, options: RunOptions) -> dict[str, Any]:
    """What `doctor --json` prints: `is_ready`, and `findings` (about, level, says, advice), in their order."""
    asked = _everyone_asked(job)
    found = [*_of_machine(job, asked, options.environ)]
    for one in asked:
        found += await _of_gateway(one, options)
    return {
        "is_ready": all(one.level != "problem" for one in found),
        "findings": [structs.asdict(one) for one in found],
    }


def _everyone_asked(job: Job) -> list[Job]:
    """The job at each of its gateways, its judges' too: each address under each key once."""
    jobs = [*job.at_each_endpoint, *(at for judge in judge_jobs(job) for at in judge.job.at_each_endpoint)]
    return list({(at.endpoint.base_url, key_in_words(at)): at for at in reversed(jobs)}.values())[::-1]


def _of_machine(job: Job, asked: Sequence[Job], environ: Mapping[str, str]) -> Iterator[Diagnosis]:
    yield _python()
    yield _libraries(LIBRARIES)
    yield from _certificates(asked, environ)
    yield from _proxies(asked, environ)
    yield _open_files(job.limits.concurrency)
    yield _room("results", job.output.dir)
    yield _temporary_folder()


def _python() -> Diagnosis:
    told = (
        f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    return Diagnosis("python", "good", f"crun-batch {version('crun-batch')} on {told}, {sys.executable}")


def _libraries(names: tuple[str, ...]) -> Diagnosis:
    """Loads each in a process of its own: a wheel for another processor ends the one that loads it."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", LOAD_EACH, *names],
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Diagnosis("libraries", "problem", f"loading them in another process failed: {type(error).__name__}")
    if done.returncode == 0:
        return Diagnosis("libraries", "good", f"all {len(names)} load")
    culprit = (done.stdout.split() or ["python"])[-1]
    if done.returncode < 0:
        why = f"ended the process ({signal.Signals(-done.returncode).name}): its wheel is not for this processor"
    else:
        why = f"cannot be loaded: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
    name = culprit.replace("_", "-")
    advice = f"install it anew on this machine: python -m pip install --force-reinstall --no-cache-dir {name}"
    return Diagnosis("libraries", "problem", f"{culprit} {why}", advice)


def _certificates(asked: Sequence[Job], environ: Mapping[str, str]) -> Iterator[Diagnosis]:
    """Who is trusted; of an endpoint with a CA of its own, that too."""
    where = " and ".join(name for name in (FILE, FOLDER) if environ.get(name)) or "the system"
    seen = set()
    for one in asked:
        path = ca_file_of(one)
        if path in seen:
            continue
        seen.add(path)
        try:
            context = client_context(() if path is None else (path,), environ)
        except InputError as error:
            yield _problem("certificates", error)
            continue
        count = context.cert_store_stats()["x509_ca"]
        more = "" if path is None else f", and {path}"
        yield Diagnosis("certificates", "good", f"{count or 'a folder'} of CAs, from {where}{more}")


def _proxies(asked: Sequence[Job], environ: Mapping[str, str]) -> Iterator[Diagnosis]:
    for base_url in dict.fromkeys(one.endpoint.base_url for one in asked):
        try:
            proxy = proxy_for(target_of(base_url).origin, environ)
        except InputError as error:
            yield _problem("proxy", error)
            continue
        yield Diagnosis(
            "proxy", "good", f"{base_url}: {'straight' if proxy is None else f'through {proxy.place}'}"
        )


def _open_files(concurrency: int) -> Diagnosis:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        ensure_file_descriptors(concurrency)
    except InputError as error:
        return _problem("open files", error)
    allowed = "any number" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    return Diagnosis("open files", "good", f"{allowed} allowed, enough for {concurrency:,} requests in flight")


def _room(about: str, folder: Path) -> Diagnosis:
    """Room and permission where a folder is, or will be made."""
    existing = next((one for one in (folder, *folder.absolute().parents) if os.access(one, os.F_OK)), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        advice = "name a folder of yours in output.dir, or with --output-dir" if about == "results" else None
        return Diagnosis(about, "problem", f"{existing} takes no file: {error.strerror}", advice)
    says = f"{free / 2**30:,.1f} GB free in {existing}"
    if free < LITTLE_ROOM_BYTES:
        return Diagnosis(
            about, "note", says, "a million short answers take about 1 GB, journal and results together"
        )
    return Diagnosis(about, "good", says)


def _temporary_folder() -> Diagnosis:
    try:
        return _room("temporary files", Path(tempfile.gettempdir()))
    except OSError:
        advice = "some tables are unpacked there: name a folder that can be written in TMPDIR"
        return Diagnosis("temporary files", "note", "there is no folder for them", advice)


async def _of_gateway(job: Job, options: RunOptions) -> list[Diagnosis]:
    """What one gateway says; where it cannot be asked, why."""
    about = "gateway" if job.endpoint.name is None else f"gateway {job.endpoint.name}"
    try:
        endpoint = endpoint_of(job, options.environ, simulated=False)
        client = endpoint.control_client(job.endpoint.base_url, options.platform.transport)
    except InputError as error:
        return [_problem(about, error)]
    async with client as gateway:
        models = await list_models(gateway)
        if isinstance(models, ControlFault) and models.kind == "unreachable":
            advice = "is endpoint.base_url right, and may this machine reach it (proxy, VPN, firewall)?"
            return [Diagnosis(about, "problem", models.message, advice)]
        reached = Diagnosis(about, "good", f"{job.endpoint.base_url} answers")
        clock = _clock(gateway.told_time, options.clock.now())
        key = _key(job, models)
        if key.level == "problem":
            return [reached, *clock, key]
        return [reached, *clock, key, _balance(await read_balance(gateway))]


def _clock(told: datetime | None, now: datetime) -> list[Diagnosis]:
    if told is None:
        return []
    skew = (now - told).total_seconds()
    if abs(skew) <= MOST_SKEW_SECONDS:
        return [Diagnosis("clock", "good", "agrees with the gateway's")]
    side = "ahead of" if skew > 0 else "behind"
    advice = "set it (timedatectl set-ntp true): moments in the results, and prices with valid_from, go by it"
    return [Diagnosis("clock", "problem", f"{abs(skew):,.0f} s {side} the gateway's", advice)]


def _key(job: Job, models: object) -> Diagnosis:
    if isinstance(models, ControlFault) and models.kind == "refused":
        advice = "is it whole, of this gateway, and not revoked?"
        if job.endpoint.auth == "none":
            advice = "add endpoint.api_key_env, the name of the variable that holds the key"
        return Diagnosis("key", "problem", f"not accepted: {key_in_words(job)} ({models.message})", advice)
    if isinstance(models, ControlFault):
        return Diagnosis("key", "note", f"the list of models cannot be read: {models.message}")
    if models is None:
        return Diagnosis("key", "note", f"{key_in_words(job)}: this gateway has no list of models to try it on")
    assert isinstance(models, tuple)
    return Diagnosis("key", "good", f"{key_in_words(job)} is accepted; {len(models):,} models are offered")


def _balance(found: Balance | ControlFault | None) -> Diagnosis:
    if found is None:
        return Diagnosis("balance", "note", "this gateway has no balance call; a budget is then the only guard")
    if isinstance(found, ControlFault):
        advice = "run would refuse to start; budget.credits: warn (or off) starts without it"
        return Diagnosis("balance", "problem", f"cannot be read: {found.message}", advice)
    if found.amount is None:
        return Diagnosis("balance", "good", "without a limit")
    amount = f"{decimal_text(pico_of(found.amount))} {found.unit}"
    if found.amount <= 0:
        return Diagnosis("balance", "problem", f"{amount} are left", "top it up: run would refuse to start")
    return Diagnosis("balance", "good", f"{amount} are left")


def _problem(about: str, error: InputError) -> Diagnosis:
    return Diagnosis(about, "problem", "; ".join(map(str, error.mistakes)), error.advice or None)
