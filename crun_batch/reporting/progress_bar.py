"""`progress=True`: one bar for scripts and notebooks. The command line has a screen of its own.

Owns when the bar is drawn: in a notebook as a widget, or as text where ipywidgets is missing; on a terminal as a
line that is drawn over; in a log, where nothing can be drawn over, a line now and then. The words are console's.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import structs

from crun_batch.console.bars import keeping_time
from crun_batch.console.progress import Progress, tqdm_postfix
from crun_batch.options import RunOptions

LINE_EVERY_SECONDS = 10.0
"""How often a log gets a line."""


class ProgressBar:
    """The bar of one call; nothing is drawn before the first figures."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bar: Any = None
        self._noun = ""
        """What it counts: after the rows it is the questions to their judges, on a bar of their own."""
        self._drawn_at = clock()
        self._every_seconds = 0.0 if _can_draw_over() else LINE_EVERY_SECONDS
        self._is_seen = sys.stderr is not None
        """Standard error may be absent, closed or a pipe that nobody reads any more: no run ends by that."""

    def watch(self, progress: Progress) -> None:
        """Where the run is."""
        if self._is_seen:
            with self._unless_lost():
                self._draw(progress)

    def _draw(self, progress: Progress) -> None:
        now = self._clock()
        if self._bar is None or progress.noun != self._noun:
            self._leave()
            self._bar, self._noun = keeping_time(_new_bar(progress), self._clock), progress.noun
        self._bar.n = progress.rows_done
        is_due = now - self._drawn_at >= self._every_seconds
        self._bar.set_postfix_str(tqdm_postfix(progress), refresh=is_due)
        if is_due:
            self._drawn_at = now

    def close(self) -> None:
        """Leave the bar as it stands in the end; what comes next stands below it."""
        with self._unless_lost():
            self._leave()

    def _leave(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    @contextmanager
    def _unless_lost(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):
            self._is_seen = False


@contextmanager
def shown(options: RunOptions) -> Iterator[RunOptions]:
    """The options with the bar they want, beside whoever watches already; it is closed however the run ends."""
    if not options.progress:
        yield options
        return
    bar, others = ProgressBar(), options.watch

    def watch(progress: Progress) -> None:
        bar.watch(progress)
        if others is not None:
            others(progress)

    try:
        yield structs.replace(options, watch=watch)
    finally:
        bar.close()


def _can_draw_over() -> bool:
    is_terminal = (
        hasattr(sys.stderr, "isatty") and not getattr(sys.stderr, "closed", False) and sys.stderr.isatty()
    )
    return is_terminal or "ipykernel" in sys.modules


def _new_bar(progress: Progress) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets is missing: the bar is text then
        from tqdm.auto import tqdm

    return tqdm(
        total=progress.rows_total,
        initial=progress.rows_done,
        unit=f" {progress.noun}s",
        file=sys.stderr,
        dynamic_ncols=True,
    )
