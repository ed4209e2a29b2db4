"""One kind of request, several places to send it to: which of them takes the next one, and which is left out.

Each endpoint keeps its own lane, so what each bears is found as it is of one alone. Of those that may take a
request now the one that is likely to answer first does: its usual answer time x (requests in flight + 1), over its
weight.
(Least load by response time and requests outstanding, as the "peak EWMA" balancers of Finagle and Linkerd choose.)
The limit that was found is no part of it: who has room is tried until there is none. An endpoint that has gone
silent counts as slow for as long as it is, so one that hangs gets nothing more.

A row is never sent back to an endpoint before the time that it was told there, and goes to another one after a
failure where one can take it soon. An endpoint that refuses the job (401, 402, an unknown model) is left out for
good; one that cannot be reached, or has answered nothing for long, for a while, then one request asks whether it
answers again. The last one is never left out: what it says is what the run says. Decided without I/O; times are
monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crun_batch.errors import EXIT_GATEWAY_REFUSED, EXIT_OUT_OF_MONEY
from crun_batch.gateway.admission import Lane
from crun_batch.gateway.per_minute import NEVER
from crun_batch.records import Again, Decision, Failure, Halt, Ticket

REFUSALS = ("stop_credits", "stop_key", "stop_refused", "stop_model")
"""What an endpoint says of itself, and would say again."""
OF_THE_GATEWAY = ("bad_request", "not_found", "too_long")
"""Why a request is refused that another gateway may take: a param it does not know, less context, a path."""
SILENT_SECONDS = 30.0
"""Failures alone for so long, and so many, leave an endpoint out for a while; sooner one that never answered."""
FEWEST_FAILURES = 5
MOST_DOUBLINGS = 10
FORGIVEN_SECONDS = 1.0
"""Each failure since its last answer makes an endpoint half as likely, for one that fails fast must not look idle;
each second since the last one twice as likely again, so that it is tried now and then."""
FIRST_LEFT_OUT_SECONDS = 30.0
LONGEST_LEFT_OUT_SECONDS = 600.0
WORTH_WAITING_SECONDS = 1.0
"""A row that failed waits so long for another endpoint before it goes back to the one that failed."""
RECENT_SHARE = 0.1
"""Weight of the latest answer in an endpoint's usual answer time."""


class Destination:
    """One endpoint, as far as it takes requests of one kind."""

    def __init__(self, name: str, lane: Lane, weight: float) -> None:
        self.name = name
        self.lane = lane
        self.weight = weight
        self.refusal: Halt | None = None
        """Why the job cannot be done there: for good, or, where it is unreached, until it is reached."""
        self.is_unreached = False
        self.left_out_until = -NEVER
        self.times_left_out = 0
        self._seconds: float | None = None
        self._heard_at = 0.0
        self._failing_since: float | None = None
        self._failures = 0

    def is_open(self, now: float) -> bool:
        """Whether it is not left out; after a while it is open again, for one request."""
        if self.is_out_for_good or now < self.left_out_until:
            return False
        return self.times_left_out == 0 or self.lane.in_flight == 0

    @property
    def is_out_for_good(self) -> bool:
        return self.refusal is not None and not self.is_unreached

    def load(self, now: float, unknown_seconds: float) -> float:
        """How long one more request would have to wait for its answer here, in comparable units."""
        lane = self.lane
        seconds = unknown_seconds if self._seconds is None else self._seconds
        if lane.in_flight:
            seconds = max(seconds, now - self._heard_at)
        doublings = min(self._failures, MOST_DOUBLINGS) - (now - self._heard_at) / FORGIVEN_SECONDS
        failing: float = 2.0 ** max(0.0, doublings)
        return failing * seconds * (lane.in_flight + 1) / self.weight

    @property
    def seconds(self) -> float | None:
        """Its usual answer time; None before the first."""
        return self._seconds

    def went(self, now: float) -> None:
        """A request goes there."""
        if self.lane.in_flight == 1:
            self._heard_at = now

    def answered(self, now: float, started_at: float) -> bool:
        """An answer came; whether it had been left out."""
        self._heard_at = now
        took = now - started_at
        self._seconds = took if self._seconds is None else self._seconds + RECENT_SHARE * (took - self._seconds)
        self._failing_since, self._failures = None, 0
        was_left_out, self.times_left_out = self.times_left_out > 0, 0
        if self.is_unreached:
            self.refusal, self.is_unreached = None, False
        return was_left_out

    def failed(self, now: float, failure: Failure) -> float | None:
        """No answer came; for how many seconds it is left out now, if it is."""
        self._heard_at = now
        if self._failing_since is None:
            self._failing_since = now
        self._failures += 1
        is_long = self._seconds is None or now - self._failing_since >= SILENT_SECONDS
        is_away = self.is_unreached or (failure.outcome == "not_sent" and not self.lane.was_reached)
        is_out = is_away or (is_long and self._failures >= FEWEST_FAILURES)
        if not is_out or now < self.left_out_until:
            return None
        seconds = min(LONGEST_LEFT_OUT_SECONDS, FIRST_LEFT_OUT_SECONDS * 2.0 ** min(self.times_left_out, 16))
        self.left_out_until = now + seconds
        self.times_left_out += 1
        return seconds


class SpreadLimit:
    """The limits of several lanes together, as far as a display asks."""

    def __init__(self, places: Sequence[Destination]) -> None:
        self._places = places

    @property
    def value(self) -> float:
        return sum(place.lane.limit.value for place in self._places if not place.is_out_for_good)


Tell = Callable[[str, str | None], None]
"""Told an endpoint's name, and why it is left out; None: it answers again."""


class Spread:
    """The endpoints of one kind of request. Seen from its queue it is a lane."""

    def __init__(self, places: Sequence[Destination], tell: Tell) -> None:
        self.places = tuple(places)
        self.limit = SpreadLimit(self.places)
        self._tell = tell

    @property
    def in_flight(self) -> int:
        return sum(place.lane.in_flight for place in self.places)

    @property
    def paused_until(self) -> float:
        """Until when none may send."""
        return min(place.lane.paused_until for place in self._remaining())

    def wait_seconds(self, now: float, tokens: int) -> float:
        """0: some endpoint takes a request now. Infinite: not before another one is back."""
        return min(place.lane.wait_seconds(now, tokens) for place in self._open(now))

    def choose(self, now: float, ticket: Ticket) -> Destination | float:
        """Who takes this request now; or how many seconds until somebody may, infinite: not before an event."""
        open_places = self._open(now)
        avoided = dict(ticket.avoids)
        if all(avoided.get(place.name) == NEVER for place in open_places):
            avoided = {}
        waits = {
            place: max(place.lane.wait_seconds(now, ticket.bound_tokens), avoided.get(place.name, now) - now)
            for place in open_places
        }
        others = [place for place in open_places if place.name != ticket.endpoint]
        soonest = min((waits[place] for place in others), default=WORTH_WAITING_SECONDS + 1)
        if soonest <= WORTH_WAITING_SECONDS or soonest == NEVER:
            waits = {place: waits[place] for place in others}
        ready = [place for place, wait in waits.items() if wait <= 0.0]
        if not ready:
            return min(waits.values())
        known = [place.seconds for place in self.places if place.seconds is not None]
        unknown_seconds = min(known, default=1.0)
        return min(ready, key=lambda place: place.load(now, unknown_seconds))

    def answered(self, now: float, place: Destination, started_at: float) -> None:
        """A reply came from there."""
        if place.answered(now, started_at):
            self._tell(place.name, None)

    def failed(
        self, now: float, place: Destination, failure: Failure, decision: Decision, ticket: Ticket
    ) -> Decision:
        """What follows a failure, given what would follow it of one endpoint alone.

        A refusal of the whole job leaves that endpoint out, and the row goes elsewhere, uncounted; where none is
        left, it is the run's. The first refusal for lack of room sends the row elsewhere at once. So does one of
        the request itself that cost nothing: gateways differ in what they take, each is asked once.
        """
        tries = ticket.tries
        if isinstance(decision, Halt) and failure.action in REFUSALS:
            return self.leave_out(place, decision) or Again(0.0, tries)
        if isinstance(decision, Halt) and not place.is_out_for_good:
            place.refusal, place.is_unreached = decision, True
        if failure.action == "fail_row":
            if failure.outcome != "rejected" or failure.kind not in OF_THE_GATEWAY:
                return decision
            if not self._has_untried(now, place, ticket):
                return decision
            decision = Again(0.0, tries, not_there_seconds=NEVER)
        seconds = place.failed(now, failure)
        others = [one for one in self._open(now) if one is not place]
        if seconds is not None and others:
            self._tell(place.name, f"no answer, asked again in {seconds:.0f} seconds: {failure.message}")
        if isinstance(decision, Halt):
            return self._nobody_left() or Again(0.0, tries)
        if isinstance(decision, Again) and failure.action != "fail_row":
            at_once = failure.action == "cool_down" and others and tries.refused == 0
            delay_seconds = decision.delay_seconds
            return Again(0.0 if at_once else delay_seconds, decision.tries, not_there_seconds=delay_seconds)
        return decision

    def _has_untried(self, now: float, place: Destination, ticket: Ticket) -> bool:
        """Whether another endpoint has not refused this request yet."""
        refused = {name for name, until in ticket.avoids if until == NEVER}
        return any(one is not place and one.name not in refused for one in self._open(now))

    def leave_out(self, place: Destination, why: Halt) -> Halt | None:
        """Send nothing there any more; where none is left, why the run halts."""
        if not place.is_out_for_good:
            place.refusal, place.is_unreached = why, False
            if self._nobody_left() is None:
                self._tell(place.name, why.words)
        return self._nobody_left()

    def place_of(self, name: str) -> Destination | None:
        """The endpoint of that name."""
        return next((place for place in self.places if place.name == name), None)

    def _nobody_left(self) -> Halt | None:
        """Why the run halts where every endpoint refuses: all reasons; out of money where one of them is."""
        refusals = {place.name: place.refusal for place in self.places}
        halts = [halt for halt in refusals.values() if halt is not None]
        if len(halts) < len(self.places):
            return None
        codes = {halt.exit_code for halt in halts}
        code = EXIT_OUT_OF_MONEY if EXIT_OUT_OF_MONEY in codes else EXIT_GATEWAY_REFUSED
        reasons = "; ".join(f"{name}: {halt.words}" for name, halt in refusals.items() if halt is not None)
        return Halt(code, f"no endpoint is left: {reasons}" if len(halts) > 1 else reasons)

    def _remaining(self) -> list[Destination]:
        """Those that do not refuse the job; all of them where every one does."""
        return [place for place in self.places if not place.is_out_for_good] or list(self.places)

    def _open(self, now: float) -> list[Destination]:
        """Those that are not left out; where all are, those that may answer again, for there is nobody else."""
        return [place for place in self.places if place.is_open(now)] or self._remaining()


AnyLane = Lane | Spread
"""What tickets wait for: one lane, or those of several endpoints."""
