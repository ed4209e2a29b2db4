"""The corridor: one run from its job file to its results. The file to read first.

    load    the job, its table, its prompts                    what is to be done
    open    the run directory: locked, recovered               what of it is done
    ask     the gateway: models, credits                       what it offers
    price   what the models cost, now and since                what is on the bill
    plan    estimate, budget, confirmation                     may we start
    send    pool and journal, until all is done or it stops    every event on disk
            first the rows, then the judges of their answers
    close   seal, score, publish, summarise                    what people read

Each step is a function below, in this order; what they are made of is in `corridor/`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import structs

from crun_batch.api import Run, ending_of, open_run, summary_of
from crun_batch.errors import EXIT_GATEWAY_REFUSED, RefusedToStart
from crun_batch.gateway.http.wire import Wire, open_wire
from crun_batch.gateway.retry import Halt
from crun_batch.load.job.job import Job, load_job
from crun_batch.options import Options, options_of
from crun_batch.preflight.affordability import (
    Site,
    endpoints_by_variant,
    estimate_document,
    how_to_go_on,
    judge,
    now_utc,
    refuse_rejected,
    reservations_of,
    sellers_of,
    unlisted_models,
)
from crun_batch.preflight.assessment import Assessment, Reading, assess, enough, everything, with_measured
from crun_batch.preflight.gateway_facts import ask_all, balance_keeper, balance_reader
from crun_batch.preflight.judge_costs import Backlog, Docket, docket_of, waiting_now
from crun_batch.preflight.pilot import Pilot, begin_pilot, conclude_pilot, halt_of, refuse_wrong_price
from crun_batch.preflight.prices import Bill, Prices, must_reprice
from crun_batch.scoring.stored import Graders, fingerprint_of, graders_of, score_answers
from crun_batch.session.judging import judge_all
from crun_batch.session.outlook import extent_of, place_of, running_summary
from crun_batch.session.repricing import bring_up_to_date
from crun_batch.session.runtime import run_to_end
from crun_batch.session.sending import Outfit, send_all
from crun_batch.session.source import open_rows, open_units
from crun_batch.state.opening import (
    Progressed,
    Standing,
    job_document,
    open_standing,
    read_standing,
    record_scores,
)
from crun_batch.state.retry import reopen
from crun_batch.store.directory import write_json
from crun_batch.store.results import publish
from crun_batch.workload.endpoint import Endpoint, endpoints_of, simulated
from crun_batch.workload.workload import Workload, load_workload

__all__ = ["Job", "Options", "Run", "arun", "estimate", "load_job", "open_run", "run"]


def run(job: Job | str | Path, *, table: object | None = None, **overrides: Any) -> Run:
    """Run a job to its end, going on where it stopped; the same as `arun`, from code without an event loop.

    Inside a running event loop (a notebook) it works in a thread of its own.
    """
    coroutine = arun(job, table=table, **overrides)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run_to_end(coroutine)
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run_to_end, coroutine).result()


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
        graders = graders_of(workload)
        standing = _open(workload, options, stack)
        scores_now = partial(fingerprint_of, graders, standing)
        docket = docket_of(workload, standing, scores_now, None)
        if not open_units(workload, standing.done) and not docket.waiting.calls:
            options.say(f"nothing to send: all {workload.selected_units:,} results are there")
            if must_reprice(workload.job, standing.document):
                _price(workload, standing, (), options)
            return _close(workload, standing, graders, docket, options, halt=None)
        sites = await ask_all(workload.asked, _endpoints(workload, options), options.ground)
        halt = _refusal_of(sites, options)
        if halt is None:
            prices = _price(workload, standing, sites, options)
            pilot = await _pilot(workload, standing, sites, options)
            if pilot is not None:
                docket = docket_of(workload, standing, scores_now, pilot.rows)
            _plan(workload, standing, sites, prices, options, pilot, docket)
            _record_job(workload, standing, prices, options)
            halt = await _send(workload, standing, sites, prices, options, pilot, docket)
            if prices.told() != standing.prices:
                standing.prices = prices.told()
                _record_job(workload, standing, prices, options)
            if pilot is not None:
                halt = await _conclude(workload, standing, sites, options, pilot, halt)
        return _close(workload, standing, graders, docket, options, halt=halt)


def _load(job: Job | str | Path, table: object | None, options: Options, stack: ExitStack) -> Workload:
    """Step 1. What is to be done; with `simulate`, the job is pointed at a simulator of its own."""
    loaded = read_job(job, table, options)
    redirected: Mapping[str, object] = {}
    if options.simulate:
        folder = loaded.output.dir
        loaded = loaded.with_overrides({"output.dir": str(folder.with_name(f"{folder.name}-simulated"))})
        redirected = stack.enter_context(simulated(loaded, options.simulator))
        loaded = loaded.with_overrides(redirected)
    workload = load_workload(loaded, table, redirected)
    for renderer in workload.renderers:
        stack.callback(renderer.close)
    stack.callback(workload.templates.close)
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
    if standing.recovered is not None and next(standing.recovered.records(), None) is not None:
        publish(standing.directory, standing.schema)  # the last session was killed before it could
    if options.retry:
        path, id_name = standing.directory.path, workload.table.id_name
        reopened = reopen(standing.done, standing.account, options.retry, path=path, id_name=id_name)
        options.say(f"{reopened:,} finished units are asked again ({', '.join(sorted(options.retry))})")
    return standing


def _endpoints(workload: Workload, options: Options) -> tuple[Endpoint, ...]:
    return endpoints_of(workload.asked, options.environ, simulated=options.simulate)


def _refusal_of(sites: Sequence[Site], options: Options) -> Halt | None:
    """Step 3. What the gateways offer: an unknown model ends here, before anything is sent."""
    for site in sites:
        for note in site.offer.notes:
            options.say(note)
        if site.offer.refusal is not None:
            return Halt(EXIT_GATEWAY_REFUSED, site.offer.refusal)
        unlisted = unlisted_models(site)
        if unlisted and site.offer.is_complete:
            return Halt(EXIT_GATEWAY_REFUSED, "; ".join(unlisted))
        for sentence in unlisted:
            options.say(sentence)
    return None


def _price(workload: Workload, standing: Standing, sites: Sequence[Site], options: Options) -> Prices:
    """Step 4. The prices of this session; where they have changed, that is said and recorded."""
    prices = Prices(workload.job, sellers_of(sites), now_utc(options.clock.epoch_us()))
    if bring_up_to_date(workload, standing, prices, options.ground, options.say):
        _record_job(workload, standing, prices, options)
    standing.prices = prices.told()
    if options.pilot is None:
        refuse_wrong_price(standing.pilot, standing.prices)
    return prices


async def _pilot(workload: Workload, standing: Standing, sites: Sequence[Site], options: Options) -> Pilot | None:
    """The pilot's rows and the balance before them, where a pilot is asked for."""
    if options.pilot is None:
        return None
    reader = balance_reader(sites, options.ground)
    return await begin_pilot(workload, standing, options.pilot, reader, options.ground)


async def _conclude(
    workload: Workload,
    standing: Standing,
    sites: Sequence[Site],
    options: Options,
    pilot: Pilot,
    halt: Halt | None,
) -> Halt | None:
    """What the pilot told; a halt where the balance contradicts the price. One that was stopped waits no more."""
    ground = options.ground if halt is None else structs.replace(options.ground, balance_reads=1)
    reader = balance_reader(sites, ground)
    standing.pilot = await conclude_pilot(workload, standing, pilot, reader, ground)
    return halt_of(standing.pilot) or halt


def _plan(
    workload: Workload,
    standing: Standing,
    sites: Sequence[Site],
    prices: Prices,
    options: Options,
    pilot: Pilot | None,
    docket: Docket,
) -> None:
    """Step 5. Estimate, budget, balance, confirmation. Raises InputError (2) and RefusedToStart (3)."""
    reading = enough(workload, standing.done, options.say) if pilot is None else pilot.reading
    assessment = _assess(workload, standing, prices, options, reading, docket.waiting)
    if pilot is not None:
        assessment = structs.replace(assessment, limit_of=int, limit_option="--pilot")
    refuse_rejected(workload, assessment)
    reservations = reservations_of(workload, standing.account.totals())
    verdict = judge(workload, assessment, sites, reservations, until_budget=options.until_budget)
    if not verdict.may_start:
        raise RefusedToStart(verdict.sentence)
    if options.confirm is not None and not options.confirm(
        estimate_document(workload, assessment, sites, verdict)
    ):
        raise RefusedToStart("not confirmed; nothing was sent")


def _assess(
    workload: Workload,
    standing: Progressed,
    prices: Prices,
    options: Options,
    reading: Reading,
    waiting: Backlog,
) -> Assessment:
    assessment = assess(
        workload,
        standing.done,
        prices,
        reading=reading,
        account=standing.account,
        tick=options.tick,
        waiting=waiting,
    )
    return with_measured(assessment, standing.pilot)


def _record_job(workload: Workload, standing: Standing, prices: Prices, options: Options) -> None:
    """The job as it is run now, and the prices that hold from now on, in job.json."""
    created_at = now_utc(options.clock.epoch_us()).isoformat(timespec="seconds")
    document = job_document(workload, standing, prices=prices.to_document(), created_at=created_at)
    write_json(standing.directory, standing.directory.job, document)


def _wire(workload: Workload) -> Wire:
    urls = [asked.url for asked in (*workload.variants, *workload.judges)]
    return open_wire("direct", connections=workload.job.limits.concurrency, urls=urls)


async def _send(
    workload: Workload,
    standing: Standing,
    sites: Sequence[Site],
    prices: Prices,
    options: Options,
    pilot: Pilot | None,
    docket: Docket,
) -> Halt | None:
    """Step 6. Everything that is open, then its judges, until it is done or something says stop."""
    job = workload.job
    wire = options.wire(job) if options.wire is not None else _wire(workload)
    threads = nullcontext() if options.ground.in_place else ThreadPoolExecutor(1, thread_name_prefix="table")
    with threads as executor:
        outfit = Outfit(
            extent=extent_of(workload, standing, pilot),
            summary=running_summary(workload, standing, options),
            wire=wire,
            clock=options.clock,
            ground=options.ground,
            bill=Bill(prices.price, job.prices.credits_per_usd),
            endpoints=endpoints_by_variant(sites),
            redact=sites[0].endpoints[0].redact,
            executor=executor,
            handle_signals=options.handle_signals,
            say=options.say,
            watch=options.watch,
            keep_balance=balance_keeper(sites, options.ground),
        )
        rows = open_rows(workload, standing.done) if pilot is None else pilot.batches()
        try:
            halt = await send_all(workload, standing, outfit, rows)
            if halt is None and workload.judges:
                halt = await judge_all(workload, standing, outfit, docket)
            return halt
        finally:
            await wire.close()


def _close(
    workload: Workload,
    standing: Standing,
    graders: Graders,
    docket: Docket,
    options: Options,
    *,
    halt: Halt | None,
) -> Run:
    """Step 7. Score and publish what is there, write the summary, give back the Run."""
    record_scores(workload, standing)
    score_answers(workload, graders, standing, docket, options.say)
    publish(standing.directory, standing.schema)
    account = standing.account
    open_count = open_units(workload, standing.done)
    halt = how_to_go_on(halt, workload, account.totals())
    ending = ending_of(
        halt,
        account.totals(),
        open_count,
        is_pilot=options.pilot is not None,
        failed_verdicts=standing.failed_verdicts,
    )
    place = place_of(workload, standing, options)
    summary = summary_of(account, place, ending, open_count=open_count, seconds=account.seconds)
    write_json(standing.directory, standing.directory.summary, summary)
    return Run(standing.directory.path, summary)


def estimate(job: Job | str | Path, *, table: object | None = None, **overrides: Any) -> dict[str, Any]:
    """What the open rows of a job will cost: the document that `estimate --json` prints. Sends nothing.

    Asks the gateway for its models and the balance. Raises what `run` raises before it sends.
    """
    return run_to_end(estimate_with(job, table, options_of(overrides)))


async def estimate_with(job: Job | str | Path, table: object | None, options: Options) -> dict[str, Any]:
    """The steps load, ask and plan, without a lock on the run directory."""
    with ExitStack() as stack:
        workload = _load(job, table, options, stack)
        standing = read_standing(workload)
        sites = await ask_all(workload.asked, _endpoints(workload, options), options.ground)
        prices = Prices(workload.job, sellers_of(sites), now_utc(options.clock.epoch_us()))
        reading, waiting = everything(workload), waiting_now(workload)
        assessment = _assess(workload, standing, prices, options, reading, waiting)
        refuse_rejected(workload, assessment)
        reservations = reservations_of(workload, standing.account.totals())
        verdict = judge(workload, assessment, sites, reservations, until_budget=options.until_budget)
        return estimate_document(workload, assessment, sites, verdict)


class _Callable(ModuleType):
    """`crun_batch.run` is this module and, as the public name, its main function."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Run:
        return run(*arguments, **keywords)


sys.modules[__name__].__class__ = _Callable
