"""The command that serves the local page until Ctrl-C."""

from __future__ import annotations

import html
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

import crun_batch
from crun_batch.cli import options
from crun_batch.cli.annotations import annotate as annotate
from crun_batch.cli.output import out, say


def view(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN...|DIR]", help="Runs, their job files, or folders of runs.  [default: .]"),
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="N", help="Default: a free one.")] = 0,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    no_open: Annotated[bool, typer.Option("--no-open", help="Open no browser.")] = False,
    allow_path: options.AllowPaths = None,
    simulate: options.SimulatedRun = False,
) -> int:
    """Serve a page on this machine to read rows and watch a run.

    Prints its address, and on a terminal opens it. Rows with filters, search and SQL; each row with its prompt,
    attempts and the answers of all variants; how a running job goes. Works offline, changes nothing in a run, and
    answers only who has the token behind the # of that address. Ends with Ctrl-C. Needs crun-batch[view].
    """
    page = crun_batch.view(
        *(runs or ()), host=host, port=port, allow_paths=tuple(allow_path or ()), simulate=simulate
    )
    with page:
        out(page.url)
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        with _opened(page.url) if is_terminal and not no_open else nullcontext():
            say("Ctrl-C ends it")
            page.wait()
    return 0


@contextmanager
def _opened(url: str) -> Iterator[None]:
    """A browser is given a private file that leads there: every user sees what a process was started with."""
    import webbrowser

    address = html.escape(url, quote=True)
    with tempfile.NamedTemporaryFile("w", suffix=".html", prefix="crun-batch-") as file:
        file.write(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={address}"><title>crun-batch</title>'
        )
        file.flush()
        webbrowser.open(Path(file.name).as_uri())
        yield
