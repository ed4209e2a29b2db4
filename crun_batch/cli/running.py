"""`estimate` and `run` at a terminal: what is shown while they work, what is asked, what they end with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import crun_batch
from crun_batch.cli.options import resume_command
from crun_batch.cli.output import out, out_for_the_record, out_json, width
from crun_batch.cli.screen import Screen
from crun_batch.console.estimates import estimate_text
from crun_batch.errors import EXIT_REFUSED_TO_START, InputError, Mistake

NOT_ESTIMATED = ("pilot", "workers", "coordinator", "ray", "retry", "redo_changed", "correct_prices")
"""Arguments of a run that change its bill, and that an estimate does not look at."""
ONLY_WHILE_SENDING = ("until", "max_minutes", "metrics_port", "otel")
"""Arguments that change no bill."""


def show_estimate(job: Path, given: Mapping[str, Any], *, json: bool) -> dict[str, Any]:
    """Estimate, and show it; `given` are arguments of `crun_batch.estimate`."""
    screen = Screen()
    try:
        document = crun_batch.estimate(job, say=screen.say, tick=screen.tick, **given)
    finally:
        screen.close()
    if json:
        out_json(document)
    else:
        out(estimate_text(document, width()))
    return document


def dry_run_exit(job: Path, given: Mapping[str, Any], *, json: bool) -> int:
    """What this run would cost, and its exit code so far: 0 where it may start, 3 where it would be refused.

    Raises InputError for what an estimate does not look at: it must not seem to be looked at.
    """
    unseen = [f"--{name.replace('_', '-')}" for name in NOT_ESTIMATED if given[name]]
    if unseen:
        says = (
            f"--dry-run counts the rows that are open now, so it cannot stand beside {', '.join(unseen)}; run "
            "without --dry-run and --yes shows the same for them, and asks before it sends anything"
        )
        raise InputError(Mistake(says))
    unused = (*NOT_ESTIMATED, *ONLY_WHILE_SENDING)
    seen = {name: value for name, value in given.items() if name not in unused}
    seen["may_lack_keys"] = False
    may_start = show_estimate(job, seen, json=json)["may_start"]
    if not json:
        then = "without --dry-run it starts" if may_start else "without --dry-run it is refused"
        out(f"dry run: nothing was sent, nothing was written; {then}")
    return 0 if may_start else EXIT_REFUSED_TO_START


def run_to_its_end(
    run: Callable[..., crun_batch.Run], job: Path, given: Mapping[str, Any], *, ask: bool, json: bool
) -> int:
    """Call `run`, with a bar and, where `ask` says so, a question; the exit code of the run."""
    screen = Screen()
    try:
        done = run(job, **given, **screen.watching(ask=ask), resume_command=resume_command(sys.argv))
    finally:
        screen.close()
    if json:
        out_json(done.summary)
    else:
        out_for_the_record(done.report(width()))
    return done.exit_code or 0
