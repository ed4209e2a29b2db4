"""The public function that serves the local page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crun_batch.api.jobs import directory_of
from crun_batch.load.arguments import arguments_told, paths_in
from crun_batch.page.view import View as View

if TYPE_CHECKING:
    from crun_batch.api.run_handle import Run

    AnyRun = Run | str | Path


@arguments_told
def view(
    *runs: AnyRun,
    host: str = "127.0.0.1",
    port: int = 0,
    table: object | None = None,
    allow_paths: Sequence[str | Path] = (),
    simulate: bool = False,
) -> View:
    """Serve a page on this machine to read rows, and to watch a run: nothing of it leaves the machine.

    Args:
        runs: run directories, their job files, `Run` objects, or folders with runs below them; default: the
            current folder.
        host: where it listens; anything but loopback lets other machines ask, who need the token too.
        port: 0 takes a free one.
        table: the table that the run was given from Python.
        allow_paths: folders whose files the rows may name, as for the run.
        simulate: of job files, their simulated runs.

    Returns a `View` at once: `url` (with its token), `wait()`, `stop()`; a block `with` ends it. The page is
    served from a thread; it changes nothing but annotations. Raises InputError: no run, a port that is taken, or
    the extra `view` is not installed.

    """
    from crun_batch.page.served import ViewOptions, serve_page

    places = [directory_of(run, simulate) for run in runs] or [Path()]
    return serve_page(places, ViewOptions(host, port, table, paths_in(allow_paths)))
