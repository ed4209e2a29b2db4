"""Where a job is over all of its workers: their progress added up, for one display."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from crun_batch.console.progress import Progress, VariantProgress


class Progresses:
    """The last word of each worker; `watch` is told of all together whenever one has moved."""

    def __init__(
        self,
        rows_total: int,
        rows_done: Sequence[int],
        watch: Callable[[Progress], None] | None,
        stops_in_seconds: Callable[[], float | None],
    ) -> None:
        self._stops_in_seconds = stops_in_seconds
        self._rows_total = rows_total
        self._watch = watch
        self._last = [Progress(rows_total=0, rows_done=done) for done in rows_done]

    def moved(self, number: int, progress: Progress) -> None:
        """A worker says where it is."""
        self._last[number] = progress
        if self._watch is not None:
            self._watch(self.read())

    def read(self) -> Progress:
        """All of them together."""
        last, rows_done = self._last, sum(one.rows_done for one in self._last)
        rows_per_second = sum(one.rows_per_second for one in last)
        at_work = [one for one in last if one.rows_done < one.rows_total]
        reasons = [one.waiting_reason for one in at_work]
        return Progress(
            rows_total=self._rows_total,
            rows_done=rows_done,
            rows_failed=sum(one.rows_failed for one in last),
            rows_otherwise=_added(pair for one in last for pair in one.rows_otherwise),
            rows_per_second=rows_per_second,
            spent_usd_pico=_known(one.spent_usd_pico for one in last),
            spent_credits_pico=_known(one.spent_credits_pico for one in last),
            projected_usd_pico=_known(one.projected_usd_pico for one in last),
            projected_credits_pico=_known(one.projected_credits_pico for one in last),
            held_usd_pico=_known(one.held_usd_pico for one in last),
            held_credits_pico=_known(one.held_credits_pico for one in last),
            in_flight=sum(one.in_flight for one in last),
            limit=sum(one.limit for one in at_work),  # what a worker had that is done is given on
            eta_seconds=(self._rows_total - rows_done) / rows_per_second if rows_per_second else None,
            waiting_reason=reasons[0] if reasons and None not in reasons else None,
            variants=_by_variant(last),
            units_per_row=max(one.units_per_row for one in last),
            is_judging=all(one.is_judging for one in last),
            is_apart=any(one.is_apart for one in last),
            stops_in_seconds=self._stops_in_seconds(),
        )


def _known(amounts: Iterable[int | None]) -> int | None:
    """The sum of what is known; None where nothing is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None


def _added(pairs: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    sums: dict[str, int] = {}
    for name, number in pairs:
        sums[name] = sums.get(name, 0) + number
    return tuple(sums.items())


def _by_variant(last: Sequence[Progress]) -> tuple[VariantProgress, ...]:
    found = [variant for one in last for variant in one.variants]
    done = dict(_added((one.name, one.rows_done) for one in found))
    not_ok = dict(_added((one.name, one.rows_not_ok) for one in found))
    return tuple(VariantProgress(name, rows, not_ok[name]) for name, rows in done.items())
