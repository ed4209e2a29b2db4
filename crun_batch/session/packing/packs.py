"""How many rows a session puts into one request, and what must be asked again: alone, or with fewer others.

Two bad packs among the last twenty of a variant end its packing for the session: whatever they save is lost by
asking twice. A reply that was cut off is no bad one: from then on half as many rows stand together. Nor is a
request that is refused for what a row says: most cost nothing, and only half of the last twenty end it. Nothing is
sent or written here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Literal

from crun_batch.records import Failure, Ticket
from crun_batch.session.packing.pack import Pack
from crun_batch.workload.packed_reply import PackedReply
from crun_batch.workload.request import Variant

PACKS_LOOKED_AT = 20
BAD_PACKS = 2
REFUSED_PACKS = 10
"""Among the last PACKS_LOOKED_AT: so many end it."""
End = Literal["good", "bad", "refused"]
_ENDINGS: tuple[tuple[End, int, str], ...] = (
    ("bad", BAD_PACKS, "not answered row by row"),
    ("refused", REFUSED_PACKS, "refused"),
)


class Packs:
    """Who is packed with how many others, for one session."""

    def __init__(self, variants: Sequence[Variant], say: Callable[[str], None]) -> None:
        self._names = [variant.name for variant in variants]
        self._sizes = {
            variant.index: variant.job.pack.rows for variant in variants if variant.job.pack is not None
        }
        self._recent = {index: deque[End](maxlen=PACKS_LOOKED_AT) for index in self._sizes}
        self._told_of_refusals: set[int] = set()
        self._out: Counter[int] = Counter()
        self._dropped: set[int] = set()
        self._say = say
        self.alone: deque[Ticket] = deque()
        """Rows to be asked by themselves."""
        self.again: deque[Ticket] = deque()
        """Rows of replies that were cut off, to be asked with fewer others."""

    @property
    def are_out(self) -> bool:
        """Whether requests are under way after which rows may have to be asked again."""
        return any(self._out.values())

    def size(self, variant: int) -> int:
        """How many rows of the variant stand in one request; 1: each is asked alone."""
        return self._sizes.get(variant, 1)

    def sent(self, pack: Pack) -> None:
        """The request is handed out."""
        self._out[pack.unit.variant] += 1

    def answered(self, pack: Pack, said: PackedReply, rows: Sequence[Ticket]) -> None:
        """A reply to the request; `rows`: its rows as they are asked next, where they have no answer."""
        without = [
            (row, answer) for row, answer in zip(rows, said.answers, strict=True) if answer.complaint is not None
        ]
        is_cut = any(answer.is_cut for _, answer in without)
        if is_cut:
            self._halve(pack)
        if pack.unit.variant not in self._dropped:
            for row, answer in without:
                (self.again if answer.is_cut else self.alone).append(row)
        if said.is_refused:
            self._tell_of_refusal(pack, "content_filter")
        self._over(pack, "refused" if said.is_refused else "bad" if said.is_bad else "good")

    def refused(self, pack: Pack, rows: Sequence[Ticket], failure: Failure) -> None:
        """The gateway does not take the request, or fails at it every time: one of the rows may be why."""
        if pack.unit.variant not in self._dropped:
            self.alone.extend(rows)
        self._tell_of_refusal(pack, failure.kind)
        self._over(pack, "refused")

    def ended(self, pack: Pack) -> None:
        """The request is over, and none of its rows is asked again."""
        if pack.unit.variant not in self._dropped:
            self._out[pack.unit.variant] -= 1

    def drop(self, variant: int) -> None:
        """Nobody asks this variant any more."""
        self._dropped.add(variant)
        self._out.pop(variant, None)
        for waiting in (self.alone, self.again):
            kept = [ticket for ticket in waiting if ticket.unit.variant != variant]
            waiting.clear()
            waiting.extend(kept)

    def _halve(self, pack: Pack) -> None:
        variant, rows = pack.unit.variant, max(1, len(pack.members) // 2)
        if rows >= self.size(variant):
            return
        self._sizes[variant] = rows
        told = f"{rows:,} in one request from now on" if rows > 1 else "each is asked alone from now on"
        self._say(f"{self._named(variant)}the reply to {len(pack.members):,} rows was cut off: {told}")

    def _tell_of_refusal(self, pack: Pack, kind: str) -> None:
        """Once for each variant: why innocent rows are asked twice."""
        variant = pack.unit.variant
        if variant not in self._told_of_refusals:
            self._told_of_refusals.add(variant)
            rows = f"{len(pack.members):,} rows"
            self._say(f"{self._named(variant)}a request of {rows} was refused ({kind}): each is asked alone")

    def _over(self, pack: Pack, how: End) -> None:
        self.ended(pack)
        variant = pack.unit.variant
        recent = self._recent[variant]
        recent.append(how)
        for end, most, were in _ENDINGS:
            number = recent.count(end)
            if number < most or self.size(variant) == 1:
                continue
            self._sizes[variant] = 1
            many = f"{number} of the last {len(recent)} requests of several rows"
            self._say(f"{self._named(variant)}{many} were {were}: rows are asked alone from now on")

    def _named(self, variant: int) -> str:
        return "" if len(self._names) == 1 else f"{self._names[variant]}: "
