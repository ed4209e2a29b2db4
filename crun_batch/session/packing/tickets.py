"""The supply of requests for several rows: made of the rows' own tickets, in an order that a seed decides.

Rows that come together are drawn, shuffled and cut into requests a window at a time, so that neither what stands
beside a row nor its place there follows the table's order. Rows that must be asked alone pass through.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Literal

from crun_batch.load.job.sections import PackSpec
from crun_batch.pricing.account import UnitKey, UnitSoFar
from crun_batch.records import Ticket
from crun_batch.session.entries import unit_key
from crun_batch.session.lanes import SkippingSource
from crun_batch.session.packing.pack import pack_of
from crun_batch.session.packing.packs import Packs
from crun_batch.session.sharing import Sharing
from crun_batch.session.tickets import Tickets
from crun_batch.workload.request import Variant

PACKS_PER_WINDOW = 16
Group = tuple[int, int]
"""Rows that may stand together: of one variant and repeat."""


class PackedTickets:
    """Tickets of all open units, those of rows that go together as one."""

    def __init__(
        self,
        rows: SkippingSource,
        packs: Packs,
        variants: Sequence[Variant],
        tickets: Tickets,
        open_units: dict[UnitKey, UnitSoFar],
        sharing: Sharing | None,
    ) -> None:
        self._rows = rows
        self._packs = packs
        self._variants = variants
        self._tickets = tickets
        self._open_units = open_units
        self._sharing = sharing
        self._windows: dict[Group, list[Ticket]] = {}
        self._cut = 0
        self._ready: deque[list[Ticket]] = deque()

    def skip(self, target: int) -> None:
        """Make no more tickets of this variant: its units stay open."""
        self._rows.skip(target)
        self._packs.drop(target)
        self._windows = {group: window for group, window in self._windows.items() if group[0] != target}
        self._ready = deque(members for members in self._ready if members[0].unit.variant != target)

    def next(self) -> Ticket | Literal["wait", "end"]:
        """The next ticket; "wait": none until a reply has come, or `wake` is called."""
        packs = self._packs
        while True:
            if packs.alone:
                return packs.alone.popleft()
            if self._ready:
                return self._handed_out(self._ready.popleft())
            while packs.again:
                self._place(packs.again.popleft())
            drawn = self._rows.next()
            if not isinstance(drawn, str):
                if self._goes_alone(drawn):
                    return drawn
                self._place(drawn)
            elif not self._flushed(drawn):
                return "wait" if drawn == "end" and packs.are_out else drawn

    def _flushed(self, drawn: Literal["wait", "end"]) -> bool:
        """Whether what waits for others to stand with can go now, because no others come."""
        is_blocked = self._sharing is not None and self._sharing.is_full
        if drawn == "wait" and not is_blocked:
            return False
        groups = list(self._windows)
        for group in groups:
            self._cut_window(group)
        return bool(groups)

    def _goes_alone(self, ticket: Ticket) -> bool:
        variant = ticket.unit.variant
        if self._packs.size(variant) == 1 or ticket.purpose != "answer" or ticket.turn:
            return True
        so_far = self._open_units.get(unit_key(ticket.unit, self._variants[variant].name))
        return so_far is not None and so_far.goes_alone

    def _place(self, ticket: Ticket) -> None:
        group = ticket.unit.variant, ticket.unit.repeat
        window = self._windows.setdefault(group, [])
        window.append(ticket)
        if len(window) >= PACKS_PER_WINDOW * self._packs.size(group[0]):
            self._cut_window(group)

    def _cut_window(self, group: Group) -> None:
        """Share out what the window holds."""
        window, spec = self._windows.pop(group), self._spec(group[0])
        self._cut += 1
        random.Random(f"{spec.seed} {group} {self._cut}").shuffle(window)
        self._ready.extend(_parts(window, self._packs.size(group[0])))

    def _handed_out(self, members: list[Ticket]) -> Ticket:
        """One request of these rows, or of as many of them as may stand together by now; one is asked alone."""
        variant = members[0].unit.variant
        members, *others = _parts(members, self._packs.size(variant))
        self._ready.extendleft(reversed(others))
        if len(members) == 1:
            return members[0]
        pack = pack_of(members, self._variants[variant], self._spec(variant).format, self._tickets)
        self._packs.sent(pack)
        return pack

    def _spec(self, variant: int) -> PackSpec:
        spec = self._variants[variant].job.pack
        assert spec is not None
        return spec


def _parts(rows: list[Ticket], size: int) -> list[list[Ticket]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]
