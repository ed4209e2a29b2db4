"""`on_end`: somebody is told when a run ends. Owns what is told, and that the run's end never waits for it.

Told are sums and how the run ended, nothing that a row or a reply held. What tells is a process of its own
(`telling`), which gets what it needs by its standard input, so that no list of processes shows it. How it went
stands in `on_end.json` in the run directory, and `status` says so where it failed.
"""

from __future__ import annotations

import json
import platform
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

from crun_batch.console.words import summary_headline
from crun_batch.errors import CrunBatchError
from crun_batch.interpreter import python_module
from crun_batch.load.job.env_file import variables_of
from crun_batch.load.job.job import Job
from crun_batch.load.job.on_end import command_words, on_end_problems
from crun_batch.load.job.secrets import named_variables
from crun_batch.options import RunOptions
from crun_batch.session.summaries import place_of
from crun_batch.state.run_state import RunContext
from crun_batch.state.summary import RunEnding, summary_of

TOLD = (
    "name",
    "status",
    "exit_code",
    "stop_reason",
    "rows",
    "errors",
    "cost_usd",
    "cost_credits",
    "seconds",
    "output_dir",
)
"""Keys of the summary that are told."""


def tell_of_end(context: RunContext, summary: Mapping[str, Any]) -> None:
    """Start telling of a session that has sent something and has ended. Never raises, never waits."""
    job, options = context.workload.job, context.options
    if not _tells(job) or options.simulate or context.state.reservations is None:
        return
    document: dict[str, Any] = {"text": summary_headline(summary), "host": platform.node()}
    document |= {key: summary[key] for key in TOLD}
    record = context.state.directory.on_end.absolute()
    try:
        environ = variables_of(job.env_file, job.base_dir, options.environ)
        record.unlink(missing_ok=True)
        _start(job, environ, document, str(record))
    except (CrunBatchError, OSError, ValueError) as error:
        options.say(f"on_end: nobody was told: {error}")


def tell_of_failure(context: RunContext, error: CrunBatchError) -> None:
    """Start telling of a session that an error has ended."""
    ending = RunEnding("stopped", error.exit_code, str(error))
    account, open_count = context.state.account, context.open_units
    summary = summary_of(account, place_of(context), ending, open_count=open_count, seconds=account.seconds)
    tell_of_end(context, summary)


def say_who_cannot_be_told(job: Job, options: RunOptions) -> None:
    """At the start of a run, when there is still time to mend it."""
    for problem in on_end_problems(job, options.environ):
        options.say(problem)


def _tells(job: Job) -> bool:
    return job.on_end.command is not None or job.on_end.webhook_env is not None


def _start(job: Job, environ: Mapping[str, str], document: Mapping[str, Any], record: str) -> None:
    spec = job.on_end
    webhook = environ.get(spec.webhook_env, "").strip() if spec.webhook_env is not None else None
    asked = {
        "command": None if spec.command is None else command_words(spec.command),
        "webhook": webhook,
        "hidden": named_variables(job),
        "document": document,
        "record": record,
    }
    process = subprocess.Popen(
        python_module("crun_batch.session.telling"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(json.dumps(asked).encode())
    threading.Thread(target=process.wait, daemon=True).start()  # takes its exit code, and holds nobody up
