"""What was in flight or unread at a kill, as lines of the bill: no attempt tells it before the next session.

It may have been billed: without it a report of a run that was just killed would say less than the bill may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from crun_batch.console.amounts import from_pico
from crun_batch.records import FREE_OUTCOMES, OutcomeClass
from crun_batch.reporting.data import Amount, BillLine, Retried, total
from crun_batch.state.recovery import IN_FLIGHT_AT_A_KILL, JournalNow
from crun_batch.state.status import KILLED, RunNow
from crun_batch.store.events import StartEvent

SUSPECT = IN_FLIGHT_AT_A_KILL.kind
"""How the next session calls what went wrong with such a request."""


def lines_at_a_kill(journal: JournalNow) -> tuple[BillLine, ...]:
    """By variant, outcome and purpose, in the order of the table's own lines; none where nothing was under way."""
    found: dict[tuple[str, OutcomeClass, str], list[StartEvent]] = {}
    for start, outcome in journal.unbooked:
        found.setdefault((start.variant, outcome, start.purpose), []).append(start)
    return tuple(_line(*key, starts) for key, starts in sorted(found.items()))


def unanswered_at_a_kill(now: RunNow) -> int:
    """How many requests of a killed run have no reply on the disk; 0 of one that was not killed."""
    if now.journal is None or now.status["status"] != KILLED.status:
        return 0
    return sum(line.requests for line in lines_at_a_kill(now.journal) if line.outcome == "unknown")


def with_unanswered(told: Sequence[Retried], lines: Sequence[BillLine]) -> tuple[Retried, ...]:
    """The requests that brought no answer, with those of the lines whose outcome is unknown; their like is one."""
    unknown = [line for line in lines if line.outcome == "unknown"]
    if not unknown:
        return tuple(told)
    like = [one for one in told if (one.outcome, one.kind, one.http_status) == ("unknown", SUSPECT, None)]
    together = Retried(
        outcome="unknown",
        kind=SUSPECT,
        http_status=None,
        requests=sum(one.requests for one in like) + sum(line.requests for line in unknown),
        held=total([*(one.held for one in like), *(line.held for line in unknown)]),
    )
    others = [one for one in told if one not in like]
    return tuple(sorted([*others, together], key=lambda one: -one.requests))


def _line(variant: str, outcome: OutcomeClass, purpose: str, starts: Sequence[StartEvent]) -> BillLine:
    doubtful = [] if outcome in FREE_OUTCOMES else starts
    return BillLine(
        variant=variant,
        outcome=outcome,
        purpose=purpose,
        source=None,
        requests=_requests(starts),
        input_tokens=0,
        cached_input_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        cost=Amount(),
        held=Amount(_held(one.held_usd for one in doubtful), _held(one.held_credits for one in doubtful)),
        unpriced=_requests(starts) if outcome == "done" else 0,
        unbounded_usd=_requests([one for one in doubtful if one.held_usd is None]),
        unbounded_credits=_requests([one for one in doubtful if one.held_credits is None]),
    )


def _requests(starts: Iterable[StartEvent]) -> int:
    """Rows that went together are one."""
    return len({one.first_of_pack for one in starts})


def _held(amounts: Iterable[int | None]) -> Decimal | None:
    known = [one for one in amounts if one is not None]
    return from_pico(sum(known) if known else None)
