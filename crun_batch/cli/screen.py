"""What a person sees while a command works, on standard error: sentences, bars, lines in a log, one question.

Owns when something is shown and how a terminal differs from a log. The words are `console`'s.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from crun_batch.cli.output import width_of_errors
from crun_batch.console.amounts import count
from crun_batch.console.bars import keeping_time
from crun_batch.console.estimates import estimate_text
from crun_batch.console.progress import Progress, tqdm_postfix
from crun_batch.console.words import folded, one_line, shorten
from crun_batch.errors import RefusedToStart

LINE_EVERY_SECONDS = 10.0
QUIET_SECONDS = 1.0
"""What takes less than this shows no counter."""


ERASE_BELOW = "\r\x1b[J"
"""From the beginning of the cursor's line to the end of the screen."""


class Screen:
    """Standard error, as a terminal or as a log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_terminal = sys.stderr.isatty()
        self._clock = clock
        self._line_at: float | None = None
        self._counting_since: float | None = None
        self._bars: list[Any] = []
        self._columns = shutil.get_terminal_size().columns
        self._noun = ""
        """What the bar counts: after the rows it is the questions to their judges, on a bar of their own."""

    def say(self, sentence: str) -> None:
        """One sentence on a line of its own, above any bar."""
        self._print(folded(one_line(sentence), width_of_errors()))

    def tick(self, rows_read: int) -> None:
        """The estimate has read so many rows."""
        if self._counting_since is None:
            self._counting_since = self._clock()
        if self._clock() - self._counting_since < QUIET_SECONDS:
            return
        if not self.is_terminal:
            self._line(f"estimating: {count(rows_read)} rows read")
            return
        if not self._bars:
            self._open_bars(1)
        self._bars[0].set_description_str(f"estimating: {count(rows_read)} rows read")

    def watch(self, progress: Progress) -> None:
        """Where the run is."""
        if not self.is_terminal:
            self._line(progress.text())
            return
        if len(self._bars) != 2 or progress.noun != self._noun:
            self.close()
            self._noun = progress.noun
            self._open_bars(2, progress)
        bar, below = self._bars
        bar.n = progress.rows_done
        self._wipe_after_resize()
        bar.refresh()
        below.set_description_str(shorten(tqdm_postfix(progress), self._columns))
        sys.stderr.write("\r")  # where a terminal that folds lines anew keeps the cursor: at the bar's beginning
        sys.stderr.flush()

    def _wipe_after_resize(self) -> None:
        """A terminal that became narrower has folded the bars into more lines, which nobody would draw over."""
        columns = shutil.get_terminal_size().columns
        if columns != self._columns:
            sys.stderr.write(ERASE_BELOW)
            self._columns = columns
            for bar in self._bars:  # forgets how long its last line was: blanks after the new one would not fit
                bar.sp = bar.status_printer(sys.stderr)

    def watching(self, *, ask: bool) -> dict[str, Any]:
        """What a run is given so that its progress is shown here; its bill is asked about where `ask` says so."""
        return {
            "confirm": lambda estimate: self.confirm(estimate, ask=ask),
            "say": self.say,
            "watch": self.watch,
            "tick": self.tick,
        }

    def confirm(self, estimate: Mapping[str, Any], *, ask: bool) -> bool:
        """Show what it will cost, and ask where `ask` says so. Raises RefusedToStart where nobody can answer."""
        self.close()
        self._print(estimate_text(estimate, width_of_errors()))
        if not ask:
            return True
        if not (sys.stdin.isatty() and self.is_terminal):
            raise RefusedToStart(
                "not confirmed, and there is no terminal to ask; nothing was sent",
                advice="Add --yes to start without being asked.",
            )
        sys.stderr.write("Start? [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def close(self) -> None:
        """Leave the bars as they are; what comes next stands below them."""
        for bar in self._bars:
            bar.close()
        self._bars = []

    def _open_bars(self, number: int, progress: Progress | None = None) -> None:
        """One line of text, or the rows' bar and a line below it."""
        from tqdm import tqdm

        below = tqdm(
            bar_format="{desc}", position=number - 1, leave=number == 2, file=sys.stderr, dynamic_ncols=True
        )
        self._bars = [below]
        if progress is not None:
            bar = tqdm(
                total=progress.rows_total,
                initial=progress.rows_done,
                position=0,
                file=sys.stderr,
                dynamic_ncols=True,
                unit=f" {progress.noun}s",
            )
            self._bars.insert(0, keeping_time(bar, self._clock))

    def _line(self, text: str) -> None:
        now = self._clock()
        if self._line_at is None:
            self._line_at = now + LINE_EVERY_SECONDS
        elif now >= self._line_at:
            self._line_at = now + LINE_EVERY_SECONDS
            self._print(text)

    def _print(self, text: str) -> None:
        if self._bars:
            self._bars[0].write(text, file=sys.stderr)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
