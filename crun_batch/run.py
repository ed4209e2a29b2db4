"""The corridor: one run from its job file to its results. The file to read first.

    load    the job, its table, its prompts                    what is to be done
    open    the run directory: locked, recovered               what of it is done
    ask     the gateway: models, credits                       what it offers
    plan    estimate, budget, confirmation                     may we start
    send    pool and journal, until all is done or it stops    every event on disk
    close   seal, publish, summarise                           what people read

Each step is a function below, in this order; what they are made of is in `corridor/`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import Struct, field

from crun_batch.corridor.asking import ask, balance_keeper
from crun_batch.corridor.endpoint import Endpoint, endpoint_of, simulated
from crun_batch.corridor.ground import Ground
from crun_batch.corridor.opened import RUNNING, Place, Run, ending_of, open_run, summary_of
from crun_batch.corridor.opening import Progressed, Standing, job_document, open_standing, read_standing
from crun_batch.corridor.preflight import (
    Assessment,
    Offer,
    Prices,
    assess,
    estimate_document,
    judge,
    now_utc,
    refuse_rejected,
    reservations_of,
    unlisted_models,
)
from crun_batch.corridor.sending import Bill, Outfit, send_all
from crun_batch.corridor.session import Clock
from crun_batch.corridor.watching import Extent
from crun_batch.corridor.workload import Workload, load_workload, open_units
from crun_batch.errors import EXIT_GATEWAY_REFUSED, InputError, RefusedToStart
from crun_batch.load.job import Job, load_job
from crun_batch.records import Row
from crun_batch.send.retry import Halt
from crun_batch.send.wire import Wire, open_wire
from crun_batch.store.directory import write_json
from crun_batch.store.results import publish
from crun_batch.tell.progress import Progress

__all__ = ["Job", "Options", "Run", "arun", "estimate", "load_job", "open_run", "run"]

PILOT_SEED = 0
SYSTEM_CLOCK = Clock(epoch_us=lambda: time.time_ns() // 1000, monotonic=time.monotonic)


def _silent(_: object) -> None:
    """Nobody watches."""


class Options(Struct, frozen=True):
    """How a run is to be gone through: what is no part of the job itself."""

    overrides: Mapping[str, object] = {}
    """Dotted job keys with their values, as from --set."""
    simulate: bool = False
    simulator: Mapping[str, Any] = {}
    """Settings of the bundled simulator."""
    pilot: int | None = None
    retry: frozenset[str] = frozenset()
    """Statuses and error kinds whose finished units are asked again."""
    until_budget: bool = False
    redo_changed: bool = False
    confirm: Callable[[Mapping[str, Any]], bool] | None = None
    """Asked with the estimate (as `estimate` gives it) before anything is sent; None: never asks."""
    say: Callable[[str], None] = _silent
    watch: Callable[[Progress], None] | None = None
    """Shown where the run is, twice a second while it sends and once at the end."""
    tick: Callable[[int], None] = _silent
    """Told how many rows the estimate has read."""
    resume_command: str | None = None
    handle_signals: bool = True
    clock: Clock = SYSTEM_CLOCK
    wire: Callable[[Job], Wire] | None = None
    ground: Ground = Ground()
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)


JOB_KEYS = {
    "limit": "input.limit",
    "max_cost_usd": "budget.max_cost_usd",
    "max_cost_credits": "budget.max_cost_credits",
    "output_dir": "output.dir",
}
"""Short names of overrides in Python and on the command line."""


def run(job: Job | str | Path, *, table: object | None = None, **overrides: Any) -> Run:
    """Run a job to its end, going on where it stopped; the same as `arun`, from code without an event loop.

    Inside a running event loop (a notebook) it works in a thread of its own.
    """
    coroutine = arun(job, table=table, **overrides)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


async def arun(job: Job | str | Path, *, table: object | None = None, **overrides: Any) -> Run:
    """Run a job and return its `Run`. Never asks.

    `job` is a Job or a job file's path, `table` a polars, pandas or Arrow table in place of `input.table`.
    `overrides` are fields of `Options`, `limit`, `max_cost_usd`, `output_dir`, or sections of the job
    (`budget={"max_cost_usd": 5}`). Raises InputError, RefusedToStart, RunDirectoryError, DiskFailed
    (exit codes 2, 3, 6, 7).
    """
    return await run_with(job, table, options_of(overrides))


async def run_with(job: Job | str | Path, table: object | None, options: Options) -> Run:
    """The walk through the corridor."""
    with ExitStack() as stack:
        workload = _load(job, table, options, stack)
        standing = _open(workload, options, stack)
        open_count = open_units(workload, standing.done)
        if not open_count:
            options.say(f"nothing to send: all {workload.selected_units:,} results are there")
            return _close(workload, standing, options, halt=None)
        endpoint = endpoint_of(workload.job, options.environ, simulated=options.simulate)
        offer = await ask(workload.job, endpoint, options.ground.transport)
        prices = Prices(workload, offer, now_utc(options.clock.epoch_us()))
        halt = _refusal_of(workload, offer, options)
        if halt is None:
            _plan(workload, standing, offer, prices, options)
            _record_job(workload, standing, prices, options)
            halt = await _send(workload, standing, endpoint, offer, prices, options)
        return _close(workload, standing, options, halt=halt)


def options_of(overrides: Mapping[str, Any]) -> Options:
    """Keyword arguments of the Python API as options. Raises InputError for a name that nothing takes."""
    own = {name: value for name, value in overrides.items() if name in Options.__struct_fields__}
    keys = {JOB_KEYS[name]: value for name, value in overrides.items() if name in JOB_KEYS and value is not None}
    for name, value in overrides.items():
        if name in own or name in JOB_KEYS:
            continue
        if name not in Job.model_fields:
            known = ", ".join(sorted([*Options.__struct_fields__, *JOB_KEYS, *Job.model_fields]))
            raise InputError(f"run() takes no argument {name!r}; it takes {known}")
        keys |= (
            {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}
        )
    return Options(**{**own, "overrides": {**keys, **own.get("overrides", {})}})


def _load(job: Job | str | Path, table: object | None, options: Options, stack: ExitStack) -> Workload:
    """Step 1. What is to be done; with `simulate`, the job is pointed at a simulator of its own."""
    loaded = read_job(job, table, options)
    if options.simulate:
        folder = loaded.output.dir
        loaded = loaded.with_overrides({"output.dir": str(folder.with_name(f"{folder.name}-simulated"))})
        loaded = stack.enter_context(simulated(loaded, options.simulator))
    workload = load_workload(loaded, table)
    for variant in workload.variants:
        stack.callback(variant.renderer.close)
    return workload


def read_job(job: Job | str | Path, table: object | None, options: Options) -> Job:
    """The job with its overrides. Raises InputError with every mistake."""
    if isinstance(job, Job):
        return job.with_overrides(options.overrides) if options.overrides else job
    return load_job(Path(job), options.overrides, environ=options.environ, needs_table=table is None)


def _open(workload: Workload, options: Options, stack: ExitStack) -> Standing:
    """Step 2. The run directory, locked, with what of the work is done."""
    started_at = now_utc(options.clock.epoch_us()).isoformat(timespec="seconds")
    standing = open_standing(
        workload,
        workload.job.output.dir,
        started_at=started_at,
        redo_changed=options.redo_changed,
        disk=options.ground.disk,
    )
    stack.callback(standing.directory.close)
    if standing.recovered is not None and standing.recovered.cut_bytes:
        options.say(f"the journal ended in a torn line of {standing.recovered.cut_bytes} bytes: cut off")
    if options.retry:
        reopened = standing.done.reopen_endings(options.retry)
        options.say(f"{reopened:,} finished units are asked again ({', '.join(sorted(options.retry))})")
    return standing


def _refusal_of(workload: Workload, offer: Offer, options: Options) -> Halt | None:
    """Step 3. What the gateway offers: an unknown model ends here, before anything is sent."""
    for note in offer.notes:
        options.say(note)
    if offer.refusal is not None:
        return Halt(EXIT_GATEWAY_REFUSED, offer.refusal)
    unlisted = unlisted_models(workload, offer)
    if unlisted and offer.is_complete:
        return Halt(EXIT_GATEWAY_REFUSED, "; ".join(unlisted))
    for sentence in unlisted:
        options.say(sentence)
    return None


def _plan(workload: Workload, standing: Standing, offer: Offer, prices: Prices, options: Options) -> None:
    """Step 4. Estimate, budget, balance, confirmation. Raises InputError (2) and RefusedToStart (3)."""
    assessment = _assess(workload, standing, prices, options, everything=False)
    refuse_rejected(workload, assessment)
    reservations = reservations_of(workload, standing.account.totals())
    verdict = judge(workload, assessment, offer, reservations, until_budget=options.until_budget)
    if not verdict.may_start:
        raise RefusedToStart(verdict.sentence)
    if options.confirm is not None and not options.confirm(
        estimate_document(workload, assessment, offer, verdict)
    ):
        raise RefusedToStart("not confirmed; nothing was sent")


def _assess(
    workload: Workload, standing: Progressed, prices: Prices, options: Options, *, everything: bool
) -> Assessment:
    return assess(
        workload,
        standing.done,
        prices,
        everything=everything,
        finished=standing.account.finished_requests(),
        latency_seconds=None,
        tick=options.tick,
    )


def _record_job(workload: Workload, standing: Standing, prices: Prices, options: Options) -> None:
    """The job as it is run now, and the prices that hold from now on, in job.json."""
    created_at = now_utc(options.clock.epoch_us()).isoformat(timespec="seconds")
    document = job_document(workload, standing, prices=prices.to_document(), created_at=created_at)
    write_json(standing.directory, standing.directory.job, document)


async def _send(
    workload: Workload, standing: Standing, endpoint: Endpoint, offer: Offer, prices: Prices, options: Options
) -> Halt | None:
    """Step 5. Everything that is open, until it is done or something says stop."""
    job = workload.job
    wire = (
        options.wire(job)
        if options.wire is not None
        else open_wire("pyreqwest", connections=job.limits.concurrency)
    )
    threads = nullcontext() if options.ground.in_place else ThreadPoolExecutor(1, thread_name_prefix="table")
    with threads as executor:
        outfit = Outfit(
            extent=_extent(workload, standing, options),
            summary=_running_summary(workload, standing, options),
            wire=wire,
            clock=options.clock,
            ground=options.ground,
            bill=Bill(prices.price, job.prices.credits_per_usd),
            headers=endpoint.headers,
            redact=endpoint.redact,
            executor=executor,
            handle_signals=options.handle_signals,
            say=options.say,
            watch=options.watch,
            keep_balance=balance_keeper(job, endpoint, offer, options.ground.transport),
        )
        try:
            return await send_all(workload, standing, outfit, _rows(workload, options))
        finally:
            await wire.close()


def _rows(workload: Workload, options: Options) -> Iterator[list[Row]]:
    if options.pilot is not None:
        return iter([workload.table.random_rows(options.pilot, PILOT_SEED, workload.columns)])
    return workload.table.rows(workload.columns)


def _extent(workload: Workload, standing: Standing, options: Options) -> Extent:
    """How many units are done and how many are to be; of a pilot only its own."""
    open_count = open_units(workload, standing.done)
    if options.pilot is None:
        return Extent(workload.selected_units - open_count, open_count)
    return Extent(0, min(open_count, options.pilot * len(workload.variants) * workload.repeats))


def _running_summary(
    workload: Workload, standing: Standing, options: Options
) -> Callable[[int, float], Mapping[str, Any]]:
    """What summary.json says while the session goes on."""
    place = _place(workload, standing, options)
    open_before = open_units(workload, standing.done)

    def summary(finished_units: int, seconds: float) -> Mapping[str, Any]:
        account = standing.account
        open_count = open_before - finished_units
        return summary_of(account, place, RUNNING, open_count=open_count, seconds=account.seconds + seconds)

    return summary


def _place(workload: Workload, standing: Standing, options: Options) -> Place:
    return Place(workload.job.name, standing.directory.path, options.resume_command)


def _close(workload: Workload, standing: Standing, options: Options, *, halt: Halt | None) -> Run:
    """Step 6. Publish what is there, write the summary, give back the Run."""
    publish(standing.directory, standing.schema)
    account = standing.account
    open_count = open_units(workload, standing.done)
    ending = ending_of(halt, account.totals(), open_count)
    place = _place(workload, standing, options)
    summary = summary_of(account, place, ending, open_count=open_count, seconds=account.seconds)
    write_json(standing.directory, standing.directory.summary, summary)
    return Run(standing.directory.path, summary)


def estimate(job: Job | str | Path, *, table: object | None = None, **overrides: Any) -> dict[str, Any]:
    """What the open rows of a job will cost: the document that `estimate --json` prints. Sends nothing.

    Asks the gateway for its models and the balance. Raises what `run` raises before it sends.
    """
    return asyncio.run(estimate_with(job, table, options_of(overrides)))


async def estimate_with(job: Job | str | Path, table: object | None, options: Options) -> dict[str, Any]:
    """The steps load, ask and plan, without a lock on the run directory."""
    with ExitStack() as stack:
        workload = _load(job, table, options, stack)
        standing = read_standing(workload)
        endpoint = endpoint_of(workload.job, options.environ, simulated=options.simulate)
        offer = await ask(workload.job, endpoint, options.ground.transport)
        prices = Prices(workload, offer, now_utc(options.clock.epoch_us()))
        assessment = _assess(workload, standing, prices, options, everything=True)
        refuse_rejected(workload, assessment)
        reservations = reservations_of(workload, standing.account.totals())
        verdict = judge(workload, assessment, offer, reservations, until_budget=options.until_budget)
        return estimate_document(workload, assessment, offer, verdict)


class _Callable(ModuleType):
    """`crun_batch.run` is this module and, as the public name, its main function."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Run:
        return run(*arguments, **keywords)


sys.modules[__name__].__class__ = _Callable
