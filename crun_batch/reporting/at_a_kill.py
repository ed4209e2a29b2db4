"""What was in flight when a run was killed, as lines of its bill: no attempt tells it until a session books it.

It may have been billed: without it a report of a run that was just killed would say less than the bill may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from crun_batch.console.amounts import from_pico
from crun_batch.reporting.data import Amount, BillLine
from crun_batch.state.recovery import JournalNow
from crun_batch.store.events import StartEvent


def lines_at_a_kill(journal: JournalNow) -> tuple[BillLine, ...]:
    """By variant and purpose, in the order of the table's own lines; none where nothing was in flight."""
    found: dict[tuple[str, str], list[StartEvent]] = {}
    for start in journal.in_flight.values():
        found.setdefault((start.variant, start.purpose), []).append(start)
    return tuple(_line(*key, starts) for key, starts in sorted(found.items()))


def _line(variant: str, purpose: str, starts: Sequence[StartEvent]) -> BillLine:
    return BillLine(
        variant=variant,
        outcome="unknown",
        purpose=purpose,
        source=None,
        requests=_requests(starts),
        input_tokens=0,
        cached_input_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        cost=Amount(),
        held=Amount(_held(one.held_usd for one in starts), _held(one.held_credits for one in starts)),
        unpriced=0,
        unbounded_usd=_requests([one for one in starts if one.held_usd is None]),
        unbounded_credits=_requests([one for one in starts if one.held_credits is None]),
    )


def _requests(starts: Iterable[StartEvent]) -> int:
    """Rows that went together are one."""
    return len({one.first_of_pack for one in starts})


def _held(amounts: Iterable[int | None]) -> Decimal | None:
    known = [one for one in amounts if one is not None]
    return from_pico(sum(known) if known else None)
