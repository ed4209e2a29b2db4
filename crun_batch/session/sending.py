"""One session from the first request to the last record: pool, journal, sealing, progress, an orderly end.

Everything with a lifetime is opened and closed here: wire, journal, threads, signal handlers.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from msgspec import Struct
from msgspec import field as struct_field

from crun_batch.console.progress import Progress
from crun_batch.errors import EXIT_INTERRUPTED, EXIT_TERMINATED
from crun_batch.gateway.admission import Lane
from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.http.wire import Wire
from crun_batch.gateway.pool import Pool, PoolSettings, Route, Source
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.retry import Decision, Halt, RetryPolicy, decide
from crun_batch.load.job.output_schema import shape_of
from crun_batch.load.job.sections import EndpointSpec
from crun_batch.preflight.affordability import reservations_of
from crun_batch.preflight.prices import Bill
from crun_batch.records import Cost, Failure, Fault, Reply, Response, Row, Tries, Unit
from crun_batch.session.recorder import Clock, Session, Work
from crun_batch.session.sharing import Sharing, recorded_answers
from crun_batch.session.source import Batches, TicketSource
from crun_batch.session.watching import Extent, Meter, keep_summary, show
from crun_batch.state.opening import Standing
from crun_batch.state.platform import Ground
from crun_batch.state.recovery import leave_in_flight, settle_leftovers
from crun_batch.store.carried import carried_encoder
from crun_batch.store.events import StartEvent
from crun_batch.store.journal import Journal, create_journal, resume_journal
from crun_batch.store.seal import seal_segment
from crun_batch.workload.conversation import Dialogue
from crun_batch.workload.endpoint import Endpoint
from crun_batch.workload.target import Asked
from crun_batch.workload.workload import Tickets, Workload

SIGNALS = {signal.SIGINT: (EXIT_INTERRUPTED, "Ctrl-C"), signal.SIGTERM: (EXIT_TERMINATED, "SIGTERM")}


class Lanes(dict[tuple[str, Hashable, str | None], Lane]):
    """The limits of each (base URL, account, model) that has been asked in this session.

    An account is known by its key: the repr, which tracebacks print, shows none.
    """

    def __repr__(self) -> str:
        return f"Lanes({len(self)})"


class Outfit(Struct, frozen=True):
    """All that a session needs from outside: injected, so that tests can replace any of it."""

    wire: Wire
    clock: Clock
    bill: Bill
    endpoints: Sequence[Endpoint]
    """One for each variant, then one for each judge."""
    redact: Callable[[bytes], bytes]
    executor: Executor | None
    ground: Ground
    handle_signals: bool
    say: Callable[[str], None]
    extent: Extent
    summary: Callable[[int, float], Mapping[str, Any]]
    """What summary.json says after this session has finished so many units in so many seconds."""
    watch: Callable[[Progress], None] | None = None
    keep_balance: Callable[[Session, Callable[[Halt], None]], Any] | None = None
    lanes: Lanes = struct_field(default_factory=Lanes)


Begin = Callable[[Journal], tuple[Session, Pool]]
"""Makes what one stretch of a session sends with, once the journal is open and up to date."""


async def send_all(
    workload: Workload, standing: Standing, outfit: Outfit, rows: Iterator[list[Row]]
) -> Halt | None:
    """Send what is open; returns why the session stopped early, None when it did not. Raises DiskFailed."""

    def begin(journal: Journal) -> tuple[Session, Pool]:
        work = _work(workload, standing, outfit)
        session = Session(
            work=work,
            journal=journal,
            account=standing.account,
            reservations=reservations_of(workload, standing.account.totals()),
            clock=outfit.clock,
        )
        session.sharing = _sharing(workload, standing, work.dialogues)
        return session, _pool(workload, standing, outfit, session, rows)

    return await in_session(workload, standing, outfit, begin)


async def in_session(workload: Workload, standing: Standing, outfit: Outfit, begin: Begin) -> Halt | None:
    """Open the journal, settle what the last session left, send until all is done or it stops, close."""
    journal = open_journal(standing, outfit.ground)
    sealer = Sealer(standing, journal, outfit.executor)
    try:
        settle_leftovers_of(workload, standing, journal, outfit.bill)
        if standing.recovered is not None:
            _begin_segment(journal, standing, sealer)
        session, pool = begin(journal)
        session.segment_closed = sealer.seal
        session.halt = pool.stop
        started = outfit.clock.monotonic()
        with _signals(pool, outfit, workload.job.limits.attempt_timeout_seconds), _settled_heap():
            halt = await _run_watched(pool, session, standing, outfit)
        standing.account.seconds += outfit.clock.monotonic() - started
        leave_in_flight(session.in_flight, journal, standing.account)
        _begin_segment(journal, standing, sealer)
        return halt
    finally:
        sealer.wait()
        journal.close()


def _begin_segment(journal: Journal, standing: Standing, sealer: Sealer) -> None:
    """Start a segment from the account as it is now: what the older ones say is in it."""
    closed = journal.maybe_rotate(standing.account.to_checkpoint, force=True)
    if closed is not None:
        sealer.seal(closed)


class Sealer:
    """Seals closed segments, one after the other, in a thread where there is one."""

    def __init__(self, standing: Standing, journal: Journal, executor: Executor | None) -> None:
        self._standing = standing
        self._journal = journal
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="seal") if executor is not None else None
        self._pending: list[Future[Any]] = []

    def seal(self, number: int) -> None:
        """Seal a segment, soon."""
        task = (self._standing.directory, number, self._standing.schema, self._journal.checksum_of(number))
        if self._executor is None:
            seal_segment(*task)
            return
        self._pending = [future for future in self._pending if not future.done() or future.result() is None]
        self._pending.append(self._executor.submit(seal_segment, *task))

    def wait(self) -> None:
        """Until all is sealed. Raises what sealing raised."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        for future in self._pending:
            future.result()


def settle_leftovers_of(workload: Workload, standing: Standing, journal: Journal, bill: Bill) -> None:
    """Record the outcome, as far as it is known, of what the last session had in flight when it was killed."""
    if standing.recovered is None:
        return
    limits = workload.job.limits
    policy = RetryPolicy(limits.max_attempts, limits.max_unknown_retries)

    def read(
        start: StartEvent, arrival: Response | Fault, before: Tries
    ) -> tuple[Reply | Failure, Cost, Decision | None]:
        asked, endpoint = _asked_by(start, workload, standing)
        if isinstance(arrival, Fault):
            result: Reply | Failure = check_fault(arrival)
        else:
            result = check(PROTOCOLS[endpoint.protocol], arrival, stream=endpoint.stream)
        model = asked or (result.model if isinstance(result, Reply) else None)
        decision = None
        if isinstance(result, Failure):
            decision = decide(result, before, policy, lane_has_succeeded=False, draw=0.0)
        return result, bill.cost(model, result), decision

    settle_leftovers(standing.recovered, journal, standing.account, read)


def _asked_by(start: StartEvent, workload: Workload, standing: Standing) -> tuple[str | None, EndpointSpec]:
    """The model that was asked, and its endpoint; of a judge as the last session had it."""
    if start.judge is not None:
        job = standing.document["job"]
        judge: Mapping[str, Any] = next((spec for spec in job["score"] if spec["name"] == start.judge), {})
        return judge.get("model"), EndpointSpec.model_validate(judge.get("endpoint") or job["endpoint"])
    variants = {variant.name: variant for variant in workload.variants}
    variant = variants.get(start.variant, workload.variants[0])
    return variant.job.model, variant.job.endpoint


def open_journal(standing: Standing, ground: Ground) -> Journal:
    """The run's journal, new or going on where it was recovered. Raises DiskFailed."""
    syncer = ground.syncer() if ground.syncer is not None else None
    if standing.recovered is None:
        checkpoint = standing.account.to_checkpoint()
        return create_journal(standing.directory, checkpoint, settings=ground.journal, syncer=syncer)
    return resume_journal(standing.directory, standing.recovered, settings=ground.journal, syncer=syncer)


def _work(workload: Workload, standing: Standing, outfit: Outfit) -> Work:
    done, slot = standing.done, workload.slot

    def mark_done(unit: Unit, status: str, kind: str | None) -> None:
        done.finish(slot(unit.position, unit.variant, unit.repeat), status, kind)

    encode = carried_encoder(standing.schema.carried, workload.carried)
    shape = None if workload.output is None else shape_of(workload.output)
    return Work(
        variants=tuple(variant.name for variant in workload.variants),
        dialogues=tuple(Dialogue(variant, shape) for variant in workload.variants),
        price=outfit.bill.cost,
        encode_carried=lambda row: encode(row.values),
        redact=outfit.redact,
        mark_done=mark_done,
        stop_at_error_rate=workload.job.limits.stop_at_error_rate,
    )


def _sharing(workload: Workload, standing: Standing, dialogues: Sequence[Dialogue]) -> Sharing | None:
    """Where identical requests are sent once: with the answers that are recorded already."""
    if not workload.job.share_identical:
        return None
    sharing = Sharing()
    if standing.recovered is not None:
        reopened = frozenset(ending.partition(":")[0] for ending in standing.done.replaced.values())
        path = standing.directory.path
        for unit, part in recorded_answers(path, workload, lambda v, text: dialogues[v].output_of(text), reopened):
            sharing.remember(unit, part)
    return sharing


def _pool(
    workload: Workload, standing: Standing, outfit: Outfit, session: Session, rows: Iterator[list[Row]]
) -> Pool:
    loop = asyncio.get_running_loop()

    def wake() -> None:
        loop.call_soon_threadsafe(lambda: pool.wake())

    tickets = session.tickets = Tickets(outfit.bill.price_of, outfit.bill.credits_per_usd, session.tokens_per_byte)
    source = TicketSource(
        workload,
        Batches(rows, outfit.executor),
        done=standing.done,
        account=standing.account,
        tickets=tickets,
        ending=session,
        wake=wake,
    )
    source.sharing = session.sharing
    routes = routes_of(workload.variants, outfit.endpoints[: len(workload.variants)], outfit)
    pool = pool_of(workload, outfit, routes, source, session)
    return pool


def pool_of(workload: Workload, outfit: Outfit, routes: Sequence[Route], source: Source, session: Session) -> Pool:
    """A pool under the job's limits."""
    limits = workload.job.limits
    return Pool(
        wire=outfit.wire,
        routes=routes,
        source=source,
        hooks=session,
        settings=PoolSettings(
            concurrency=limits.concurrency,
            attempt_timeout_seconds=limits.attempt_timeout_seconds,
            retry=RetryPolicy(limits.max_attempts, limits.max_unknown_retries),
            give_up_after_seconds=limits.give_up_after_minutes * 60,
        ),
        epoch_seconds=lambda: outfit.clock.epoch_us() / 1e6,
    )


def routes_of(asked: Sequence[Asked], endpoints: Sequence[Endpoint], outfit: Outfit) -> tuple[Route, ...]:
    """One for each who is asked; those that share an account and a model share its limits."""
    lanes = outfit.lanes

    def lane_of(one: Asked, endpoint: Endpoint) -> Lane:
        limits = one.job.limits
        key = (one.job.endpoint.base_url, endpoint.account, one.job.model)
        if key not in lanes:
            lanes[key] = Lane(
                ceiling=limits.concurrency,
                adaptive=limits.adaptive,
                requests_per_minute=limits.requests_per_minute,
                tokens_per_minute=limits.tokens_per_minute,
            )
        return lanes[key]

    return tuple(
        Route(
            lane_of(one, endpoint),
            one.url,
            endpoint.headers,
            PROTOCOLS[one.protocol_name],
            one.job.endpoint.stream,
        )
        for one, endpoint in zip(asked, endpoints, strict=True)
    )


async def _run_watched(pool: Pool, session: Session, standing: Standing, outfit: Outfit) -> Halt | None:
    """The pool; beside it the display, the summary and the balance."""
    clock = outfit.clock.monotonic
    meter = Meter(pool, session, outfit.extent, clock)
    started = clock()

    def summary() -> Mapping[str, Any]:
        return outfit.summary(session.finished_units, clock() - started)

    beside = [keep_summary(standing.directory, summary, outfit.say)]
    if outfit.watch is not None:
        beside.append(show(outfit.watch, meter))
    if outfit.keep_balance is not None:
        beside.append(outfit.keep_balance(session, pool.stop))
    watchers = [asyncio.create_task(watcher) for watcher in beside]
    try:
        return await pool.run()
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        if outfit.watch is not None:
            outfit.watch(meter.read())


@contextmanager
def _settled_heap() -> Iterator[None]:
    """What is in memory now stays: the garbage collector need not walk through it again while rows come and go."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _signals:  # noqa: N801 - used as a context
    """Ctrl-C or SIGTERM once: drain. Twice: end now; what is in flight is then of unknown outcome."""

    def __init__(self, pool: Pool, outfit: Outfit, timeout_seconds: float) -> None:
        self._pool = pool
        self._say = outfit.say
        self._timeout_seconds = timeout_seconds
        self._replaced: dict[signal.Signals, Any] = {}
        self._caught_before = False
        self._wanted = outfit.handle_signals and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self._wanted:
            loop = asyncio.get_running_loop()
            for number in SIGNALS:
                self._replaced[number] = signal.getsignal(number)
                loop.add_signal_handler(number, self._caught, number)

    def __exit__(self, *_: object) -> None:
        for number, former in self._replaced.items():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, former)

    def _caught(self, number: signal.Signals) -> None:
        exit_code, name = SIGNALS[number]
        in_flight = self._pool.in_flight
        if self._caught_before:
            self._say(f"{name} again: ending now, {in_flight} in flight are left with unknown outcome")
            self._pool.abandon()
            return
        self._caught_before = True
        self._say(
            f"{name}: no new requests; waiting for {in_flight} in flight, at most "
            f"{self._timeout_seconds:g} s (once more: end now, their outcome stays unknown)"
        )
        self._pool.stop(Halt(exit_code, name))
