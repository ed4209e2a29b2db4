"""The commands about run directories: which there are, how one goes, its rows, its results, shards made one run.

As in `commands`: arguments in, one public call, words and an exit code out.
"""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

import crun_batch
from crun_batch.cli import options
from crun_batch.cli.output import leave_standard_output, out, out_bytes, out_for_the_record, out_json, say, width
from crun_batch.cli.pages import annotate as annotate
from crun_batch.cli.pages import view as view
from crun_batch.cli.watching import follow_run
from crun_batch.errors import EXIT_GATEWAY_REFUSED

AnyFormat = Literal["csv", "jsonl", "parquet", "html", "openai-batch", "chat-jsonl", "openai-batch-requests"]


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look.")] = Path(),
    json: options.AsJson = False,
) -> int:
    """List the run directories in a folder and below it.

    Status, rows, cost, and when each was last active. Directories that are damaged, or that only look like a run,
    are named with what is wrong. Counts of a running run are up to 5 seconds old.
    """
    from crun_batch.console.runs_words import runs_text

    found = crun_batch.runs(folder)
    if json:
        out_json(found)
    else:
        out(runs_text(found, str(folder), datetime.now(UTC), width()))
    return 0


def status(
    run: options.RunPlace,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Live, until the run has ended.")] = False,
    simulate: options.SimulatedRun = False,
    json: options.AsJson = False,
) -> int:
    """Show what a run has done so far, from any terminal.

    Live, whether the run is running, has ended, or was killed. Lists the attempts of unknown outcome, which may
    have been billed without a recorded reply. Of a job by several workers all shards are told as one. --follow
    goes on until the run has ended: on a terminal a block that is updated, elsewhere a line per change, with
    --json a document per line. Ctrl-C leaves the run alone.
    """
    from crun_batch.console.listings import status_text

    if follow:
        document = follow_run(crun_batch.follow(run, simulate=simulate), json=json)
    else:
        document = crun_batch.status(run, simulate=simulate)
        if json:
            out_json(document)
    if not json:
        out(status_text(document, shlex.quote(document["output_dir"]), width()))
    return 0


def cancel(
    run: options.RunPlace,
    simulate: options.SimulatedRun = False,
    json: options.AsJson = False,
) -> int:
    """Ask the gateway to stop a run's batches.

    Of a run in the batch lane: each of its batches that is not over, whether the run is running or not. What is
    done by then is paid; run again to collect it. Nothing is written into the run.
    """
    from crun_batch.console.listings import cancel_text

    document = crun_batch.cancel(run, simulate=simulate)
    if json:
        out_json(document)
    else:
        out(cancel_text(document))
    if document["fault"] is not None:
        say(document["fault"])
        return EXIT_GATEWAY_REFUSED
    return 0


def show(
    run: options.RunPlace,
    row: Annotated[str, typer.Argument(metavar="ID", help="The row's id.")],
    raw: Annotated[bool, typer.Option("--raw", help="Requests and replies as they went over the wire.")] = False,
    allow_path: options.AllowPaths = None,
    simulate: options.SimulatedRun = False,
    json: options.AsJson = False,
) -> int:
    """Show one row: prompt, attempts, answers, scores, costs.

    The prompt is rendered again from the table and shown only where its hash is that of the request that was sent.
    Each variant and repeat stands below the other, with its turns, repairs, failed attempts and judges.
    """
    from crun_batch.console.row_words import row_text

    document = crun_batch.show(run, row, raw=raw, allow_paths=tuple(allow_path or ()), simulate=simulate)
    if json:
        out_json(document)
    else:
        out(row_text(document, width()))
    return 0


def merge(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Directories of shards, or a job file for all of its own."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The new run directory.")],
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also shards with open rows, or that were killed.")
    ] = False,
    json: options.AsJson = False,
) -> int:
    """Make one run of all shards of a job.

    One results.parquet, attempts, summary and job.json, verified: report, compare, sql, export and run work on it
    as on any run. Shards of other jobs, missing ones, those that are there twice, unfinished or damaged are
    refused and named. The shards stay as they are; nothing is sent. Exits as the run would have.
    """
    done = crun_batch.merge(*runs, output_dir=output, unfinished=unfinished)
    if json:
        out_json(done.summary)
    else:
        out_for_the_record(done.report())
    return done.exit_code or 0


def export(  # noqa: PLR0913
    run: options.RunPlace,
    format: Annotated[AnyFormat, typer.Option("--format", help="The form.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to.")] = None,
    where: Annotated[str | None, typer.Option("--where", metavar="SQL", help="A predicate over results.")] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="NAME[,NAME]", help="Only these.")] = None,
    status: Annotated[str | None, typer.Option("--status", metavar="STATUS[,STATUS]", help="Only these.")] = None,
    allow_path: options.AllowPaths = None,
    simulate: options.SimulatedRun = False,
) -> int:
    """Write the results in another format.

    To standard output (-o - too), or to a file, which is whole or as it was before. In csv, a text that a
    spreadsheet would run as a formula gets a leading apostrophe. openai-batch gives the lines of an OpenAI Batch
    output file, with each reply as it came, openai-batch-requests those of its input file. chat-jsonl gives the
    messages with their answer, for fine-tuning: of ok rows, or of those with --status. What was asked is rendered
    again and checked by its hash; rows of a table that has changed since are left out, and counted.
    """
    output = None if output == Path("-") else output
    target = sys.stdout.buffer if output is None else output
    try:
        told = crun_batch.export(
            run,
            format,
            target,
            where=where,
            columns=columns or (),
            status=status or (),
            allow_paths=tuple(allow_path or ()),
            simulate=simulate,
        )
        if output is None:
            out_bytes(b"")
    except BrokenPipeError:
        leave_standard_output()
        return 0
    if output is not None:
        say(f"{told['rows']:,} rows to {output}")
    if told["left_out"]:
        say(f"{told['left_out']:,} rows left out: the table has changed since, or there is no answer")
    return 0
