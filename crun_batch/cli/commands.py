"""The command line: arguments in, one public call, words and an exit code out. What only reads is in `reading`.

Decides nothing: what may start, what a run cost and which exit code it has come from the library. Libraries that
take long to load are imported by the command that needs them.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs

import crun_batch
from crun_batch.cli import options, reading, setting_up, steering
from crun_batch.cli.border import guarded
from crun_batch.cli.output import (
    complain,
    out,
    out_json,
    say,
    width,
)
from crun_batch.errors import (
    EXIT_GATEWAY_REFUSED,
    EXIT_INPUT,
    EXIT_ROWS_FAILED,
    EXIT_RUN_DIRECTORY,
    Mistake,
)

HELP = (
    "Run large prompt tables against a model gateway: know the bill first, lose no paid reply, pay for none twice."
)

app = typer.Typer(
    name="crun-batch",
    help=HELP,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback()
def _commands(version: options.Version = False) -> None:
    pass


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to.")] = Path()) -> int:
    """Write a first job that runs as it is.

    A commented job file and a table of ten rows, into DIR or the current folder. Nothing is overwritten.
    """
    from crun_batch.cli.starter import JOB_NAME, write_starter

    for path in write_starter(folder):
        out(f"wrote {path}")
    out(f"try it, without key and cost: crun-batch run {shlex.quote(str(folder / JOB_NAME))} --simulate")
    return 0


@app.command()
def check(
    job: options.JobFile,
    shard: options.Shard = None,
    allow_path: options.AllowPaths = None,
    env_file: options.EnvFile = None,
    set_: options.Settings = None,
    json: options.AsJson = False,
) -> int:
    """Check a job without calling anything; report every mistake.

    Shows the table's columns, the templates, three rendered requests, and how many requests are identical.
    Mistakes in the job, the table, the templates and the rows are reported together, and then nothing else.
    """
    from crun_batch.console.listings import check_text

    document = crun_batch.check(job, shard=shard, **options.for_job(set_, env_file, allow_path))
    mistakes = [Mistake(**mistake) for mistake in document["mistakes"]]
    if json:
        out_json(document)
    elif not mistakes:
        out(check_text(document, width()))
    if mistakes:
        complain(mistakes)
    return EXIT_INPUT if mistakes else 0


@app.command()
def estimate(  # noqa: PLR0913 - one parameter for each option
    job: options.JobFile,
    limit: options.Limit = None,
    shard: options.Shard = None,
    simulate: options.Simulate = False,
    simulator: options.SimulatorSettings = None,
    set_: options.Settings = None,
    output_dir: options.OutputDir = None,
    allow_path: options.AllowPaths = None,
    env_file: options.EnvFile = None,
    json: options.AsJson = False,
) -> int:
    """Estimate tokens, cost and time; nothing is sent.

    Reads every row that is still open, asks the gateway for its models and the balance, and shows what the rows
    cost at least and at most, what is expected once rows have finished, and how long the limits make it take.
    Without the gateway's key it does not ask, and says so.
    """
    from crun_batch.cli.running import show_estimate

    given = {
        "limit": limit,
        "shard": shard,
        "simulate": simulate,
        "simulator": options.simulator_settings(simulator, simulate=simulate),
        "output_dir": output_dir,
        **options.for_job(set_, env_file, allow_path),
    }
    show_estimate(job, given, json=json)
    return 0


@app.command()
def run(  # noqa: PLR0913 - one parameter for each option
    job: options.JobFile,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    limit: options.Limit = None,
    shard: options.Shard = None,
    workers: options.Workers = None,
    coordinator: options.Coordinator = None,
    ray: options.Ray = None,
    pilot: options.Pilot = None,
    retry: options.Retry = None,
    max_cost_usd: options.MaxCostUsd = None,
    max_cost_credits: options.MaxCostCredits = None,
    until_budget: options.UntilBudget = False,
    redo_changed: options.RedoChanged = False,
    correct_prices: options.CorrectPrices = False,
    until: options.Until = None,
    max_minutes: options.MaxMinutes = None,
    metrics_port: options.MetricsPort = None,
    otel: options.Otel = False,
    simulate: options.Simulate = False,
    simulator: options.SimulatorSettings = None,
    set_: options.Settings = None,
    output_dir: options.OutputDir = None,
    allow_path: options.AllowPaths = None,
    env_file: options.EnvFile = None,
    json: options.AsJson = False,
) -> int:
    """Run the job, resuming where it stopped.

    Checks credits and budget, shows the bill to expect and asks; --yes does not ask. Ctrl-C once ends in an
    orderly way, twice at once; the same command resumes. A finished run sends nothing and exits as it did.
    """
    from crun_batch.cli.running import dry_run_exit, run_to_its_end

    given = {
        "limit": limit,
        "shard": shard,
        "workers": workers,
        "coordinator": coordinator,
        "ray": ray,
        "pilot": pilot,
        "retry": () if retry is None else retry,
        "max_cost_usd": max_cost_usd,
        "max_cost_credits": max_cost_credits,
        "until_budget": until_budget,
        "redo_changed": redo_changed,
        "correct_prices": correct_prices,
        "until": until,
        "max_minutes": max_minutes,
        "metrics_port": metrics_port,
        "otel": otel,
        "simulate": simulate,
        "simulator": options.simulator_settings(simulator, simulate=simulate),
        "output_dir": output_dir,
        **options.for_job(set_, env_file, allow_path),
    }
    if dry_run:
        return dry_run_exit(job, given, json=json)
    return run_to_its_end(crun_batch.run, job, given, ask=not (yes or simulate or coordinator), json=json)


app.command()(steering.coordinator)
app.command()(reading.runs)
app.command()(reading.status)
app.command()(steering.set)
app.command()(steering.pause)
app.command()(steering.resume)
app.command()(steering.stop)
app.command()(reading.show)
app.command()(reading.merge)
app.command()(reading.view)
app.add_typer(reading.annotate, name="annotate")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories, or their job files.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to.")] = None,
    simulate: options.SimulatedRun = False,
    json: options.AsJson = False,
) -> int:
    """Write a report with plots, and show its figures.

    One HTML file that opens offline: the bill, what went wrong, quality against cost, what came out, how it went
    over time, rows to read. Into the run directory as report.html; of several runs, into the current folder.
    """
    written = crun_batch.report(*runs, path=output, simulate=simulate)
    if json:
        out_json(written.to_dict())
    else:
        out(f"{written.text(width())}\n\nwith plots: {written.path}")
    return 0


@app.command()
def compare(  # noqa: PLR0913
    runs: options.RunPlaces,
    score: options.Score = None,
    baseline: options.Baseline = None,
    fail_if_worse: options.FailIfWorse = False,
    gold: options.Gold = None,
    label: options.Label = None,
    export_disagreements: options.ExportDisagreements = None,
    export_labels: options.ExportLabels = None,
    simulate: options.SimulatedRun = False,
    json: options.AsJson = False,
) -> int:
    """Compare variants, or runs, side by side.

    Scores with intervals and paired differences, agreement, cost per row and per correct row, time, tokens; names
    the cheapest variant that is not significantly worse than the best. Lists the rows on which replies differ.
    """
    found = crun_batch.compare(*runs, score=score, baseline=baseline, label=label, gold=gold, simulate=simulate)
    if export_disagreements is not None:
        found = structs.replace(found, disagreements=found.all_disagreements())
        say(f"{found.export_disagreements(export_disagreements):,} rows to {export_disagreements}")
    if export_labels is not None:
        say(f"{found.export_labels(export_labels):,} rows to {export_labels}")
    if json:
        out_json(found.to_dict())
    else:
        out(found.text(width()))
    return EXIT_ROWS_FAILED if fail_if_worse and found.comparison.worse else 0


@app.command()
def sql(
    run: options.RunPlace,
    query: options.Query,
    simulate: options.SimulatedRun = False,
    json: options.AsJson = False,
) -> int:
    """Query `results` and `attempts` with DuckDB, live rows included.

    One SELECT; it can read this run's files and nothing else.
    """
    from crun_batch.console.listings import rows_text

    answer = crun_batch.open_run(run, simulate=simulate).sql(query)
    if json:
        out_json(answer.to_pylist())
    else:
        out(rows_text(answer.column_names, answer.to_pylist(), width()))
    return 0


@app.command()
def verify(
    run: options.RunPlace,
    data: Annotated[bool, typer.Option("--data", help="Read every byte and compare its checksum.")] = False,
    simulate: options.SimulatedRun = False,
    json: options.AsJson = False,
) -> int:
    """Check every promise about a run's files.

    Exit code 6 where anything is damaged. Nothing is repaired.
    """
    from crun_batch.console.listings import findings_text

    found = crun_batch.verify(run, data=data, simulate=simulate)
    findings = [structs.asdict(finding) for finding in found]
    if json:
        out_json(findings)
    else:
        out(findings_text(findings, data=data))
    return EXIT_RUN_DIRECTORY if any(finding["severity"] == "error" for finding in findings) else 0


app.command()(reading.cancel)
app.command()(reading.export)


@app.command()
def models(
    job: options.AnyJobFile = None,
    env_file: options.EnvFile = None,
    set_: options.Settings = None,
    json: options.AsJson = False,
) -> int:
    """List what the gateway offers, with known prices."""
    from crun_batch.console.listings import models_text

    document = crun_batch.models(job, **options.for_job(set_, env_file))
    return _answer(document, models_text, json=json)


@app.command()
def credits(
    job: options.AnyJobFile = None,
    env_file: options.EnvFile = None,
    set_: options.Settings = None,
    json: options.AsJson = False,
) -> int:
    """Show what is left of the account's credit."""
    from crun_batch.console.listings import credit_text

    document = crun_batch.credits(job, **options.for_job(set_, env_file))
    return _answer(document, credit_text, json=json)


def _answer(document: dict[str, Any], words: Any, *, json: bool) -> int:
    if json:
        out_json(document)
    elif document["fault"] is None:
        out(words(document, width()))
    if document["fault"] is not None:
        say(document["fault"])
        return EXIT_GATEWAY_REFUSED
    return 0


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def simulator(context: typer.Context) -> int:
    """Serve the simulated gateway on loopback until Ctrl-C: no key, no cost."""
    from crun_batch.simulator import serve

    return serve(context.args)


@app.command()
def schema() -> int:
    """Print the JSON Schema of job files, for editors."""
    out_json(crun_batch.job_schema())
    return 0


app.command()(setting_up.doctor)
app.command()(setting_up.completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Never raises what a person cannot use."""
    given = options.with_ray_address(list(sys.argv[1:] if arguments is None else arguments))
    command = typer.main.get_command(app)
    return guarded(lambda: command.main(given, prog_name="crun-batch", standalone_mode=False), given)
