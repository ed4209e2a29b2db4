"""`coordinator` at a terminal: what is asked and shown is what `run --workers` asks and shows."""

from __future__ import annotations

from typing import Annotated

import typer

import crun_batch
from crun_batch.cli import options

Shards = Annotated[int, typer.Option("--shards", min=1, metavar="N", help="How many workers there are to be.")]
Host = Annotated[str, typer.Option("--host", metavar="HOST", help="Where to listen; 0.0.0.0: for other machines.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="At which port; 0: a free one.")]


def coordinator(  # noqa: PLR0913 - one parameter for each option
    job: options.JobFile,
    shards: Shards,
    host: Host = "127.0.0.1",
    port: Port = 0,
    yes: options.Yes = False,
    max_cost_usd: options.MaxCostUsd = None,
    max_cost_credits: options.MaxCostCredits = None,
    until_budget: options.UntilBudget = False,
    until: options.Until = None,
    max_minutes: options.MaxMinutes = None,
    simulate: options.Simulate = False,
    set_: options.Settings = None,
    output_dir: options.OutputDir = None,
    allow_path: options.AllowPaths = None,
    env_file: options.EnvFile = None,
    metrics_port: options.MetricsPort = None,
    json: options.AsJson = False,
) -> int:
    """Grant the workers of a job their parts, on any machines; one run in the end.

    Each worker is `crun-batch run JOB --shard I/N --coordinator URL`; all see one folder. Shows the bill and asks,
    grants out of one budget and one set of limits until every shard has ended, then merges them. Killed, it is
    started again by the same command, and the workers go on. Ctrl-C stops all workers; SIGTERM only this process.
    Listening further than this machine takes a token, in CRUN_BATCH_COORDINATOR_TOKEN, here and at the workers.
    """
    from crun_batch.cli.running import run_to_its_end

    given = {
        "shards": shards,
        "host": host,
        "port": port,
        "max_cost_usd": max_cost_usd,
        "max_cost_credits": max_cost_credits,
        "until_budget": until_budget,
        "until": until,
        "max_minutes": max_minutes,
        "simulate": simulate,
        "output_dir": output_dir,
        "metrics_port": metrics_port,
        **options.for_job(set_, env_file, allow_path),
    }
    return run_to_its_end(crun_batch.coordinator, job, given, ask=not (yes or simulate), json=json)
