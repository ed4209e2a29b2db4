"""A run's views kept open between the pages of rows that are asked for, and made anew when the run has changed.

One query at a time and each for QUERY_SECONDS at most: a predicate that never ends must not hold the page. Owns
when a connection is too old; the rest of the module `rows`. Reads this run's files and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from crun_batch.errors import InputError
from crun_batch.store.directory import RunDirectory
from crun_batch.store.views import CURRENT, confine, connect

QUERY_SECONDS = 30.0
LEAST_AGE_SECONDS = 1.0
MOST_OF_THE_TIME = 0.1
"""Share of the time that is spent on reading a live journal anew, where that takes long."""
CHOSEN = "_chosen"
"""The view of the rows that the user's predicate lets pass."""
Fingerprint = tuple[tuple[str, int, int], ...]


class OpenedRun:
    """A connection to a run's views, one user at a time."""

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._seen: Fingerprint = ()
        self._made: set[str] = set()
        self._due = 0.0

    @contextmanager
    def connection(self, where: str | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """The views as they are now, with CHOSEN: all of CURRENT, or what the predicate `where` lets pass.

        Raises InputError with DuckDB's complaint, also about what is done with it, or where that takes too long.
        """
        with self._lock:
            connection = self._current()
            ending = threading.Timer(QUERY_SECONDS, connection.interrupt)
            ending.start()
            try:
                _choose(connection, where)
                yield connection
            except duckdb.InterruptException:
                raise InputError(f"this took longer than {QUERY_SECONDS:.0f} s: narrow it down") from None
            except (duckdb.Error, pa.ArrowException) as error:
                raise InputError(f"the rows could not be chosen: {error}") from error
            finally:
                ending.cancel()

    def keep(self, connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
        """Make a table of a query's rows, once as long as the run stays as it is."""
        if name not in self._made:
            connection.execute(f"create or replace temp table {name} as {query}")
            self._made.add(name)

    @property
    def seen(self) -> Fingerprint:
        """What the connection was made from: other than before, and all counts are others."""
        return self._seen

    def close(self) -> None:
        """Close the connection; asking for it opens it again."""
        with self._lock:
            self._close()

    def _current(self) -> duckdb.DuckDBPyConnection:
        found = fingerprint(self.path)
        now = self._monotonic()
        if self._connection is not None and (found == self._seen or now < self._due):
            return self._connection
        self._close()
        connection = connect(self.path)
        connection.execute("set TimeZone = 'UTC'")
        confine(connection, self.path)
        ended = self._monotonic()
        self._due = ended + max(LEAST_AGE_SECONDS, (ended - now) / MOST_OF_THE_TIME)
        self._connection, self._seen = connection, found
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._made.clear()


def fingerprint(path: Path) -> Fingerprint:
    """Names, sizes and times of the files that results and attempts are read from."""
    run = RunDirectory(path)
    files = [run.job, run.scores]
    files += [file for folder in (run.journal, run.parts, run.attempts) for file in _files(folder)]
    return tuple((str(file), *_size_and_time(file)) for file in files)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _choose(connection: duckdb.DuckDBPyConnection, where: str | None) -> None:
    """A predicate is parsed as one expression: it can neither end the statement nor begin another."""
    rows = connection.view(CURRENT)
    if where is not None:
        rows = rows.filter(where)
    rows.create_view(CHOSEN, replace=True)
