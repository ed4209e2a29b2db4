"""The commands that tell a running run something. As in `commands`: one public call, words and an exit code."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Any

import typer

import crun_batch
from crun_batch.cli import options
from crun_batch.cli.coordinating import coordinator as coordinator
from crun_batch.cli.output import out, out_json


def set(
    run: options.RunPlace,
    values: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="As the job file writes them.")],
    simulate: options.SimulatedRun = False,
    json: options.AsJson = False,
) -> int:
    """Change limits and caps of a running run.

    limits.concurrency, limits.requests_per_minute, limits.tokens_per_minute, budget.max_cost_usd and
    budget.max_cost_credits; null takes one away. They hold until the session ends: the job file stays as it is.
    The run confirms each, old and new, once job.json says so; exit code 6 where no session runs. Of a job by
    several workers, named by its job file, they are those of all, confirmed once every worker holds to them.
    """
    return _answered(run, crun_batch.set(run, options.pairs(values, "set"), simulate=simulate), json=json)


def pause(run: options.RunPlace, simulate: options.SimulatedRun = False, json: options.AsJson = False) -> int:
    """Let a running run send nothing new until resume.

    What is in flight is waited for and kept. A pause ends with its session; exit code 6 where none runs.
    """
    return _answered(run, crun_batch.pause(run, simulate=simulate), json=json)


def resume(run: options.RunPlace, simulate: options.SimulatedRun = False, json: options.AsJson = False) -> int:
    """Let a paused run go on."""
    return _answered(run, crun_batch.resume(run, simulate=simulate), json=json)


def stop(run: options.RunPlace, simulate: options.SimulatedRun = False, json: options.AsJson = False) -> int:
    """End a running run in an orderly way, from any terminal.

    As Ctrl-C once in its own: nothing new is sent, what is in flight is waited for, and the same command goes on
    with it later. Returns at once; status --follow shows the end. Exit code 6 where no session runs.
    """
    return _answered(run, crun_batch.stop(run, simulate=simulate), json=json)


def _answered(run: object, answer: Mapping[str, Any], *, json: bool) -> int:
    from crun_batch.console.steering_words import answer_text

    if json:
        out_json(answer)
    else:
        out(answer_text(answer, shlex.quote(str(run))))
    return 0
