"""A run's views kept open between the pages of rows that are asked for, and made anew when the run has changed.

One query at a time and each for QUERY_SECONDS at most: a predicate that never ends must not hold the page. Owns
when a connection is too old, and whether rows are chosen from what is held or from the files. Reads this run's
files and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
from msgspec import structs

from crun_batch.errors import InputError
from crun_batch.page.choosing import RowNeeds
from crun_batch.page.facts import RunFacets
from crun_batch.page.held import HeldPart, HeldRows
from crun_batch.page.held_columns import LOW, HeldColumns
from crun_batch.paths import is_folder
from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import SEQUENCE, quoted, score_columns
from crun_batch.store.views import (
    CURRENT,
    Snapshot,
    confine,
    current_of,
    make_finals_view,
    make_views,
    run_schema,
    snapshot,
)

QUERY_SECONDS = 30.0
LEAST_AGE_SECONDS = 1.0
MOST_OF_THE_TIME = 0.1
"""Share of the time that is spent on reading a live journal anew, where that takes long."""
CHOSEN = "_chosen"
"""The view of the rows that the user's predicate lets pass, with the columns that were needed."""
FROM_FILES = "_from_files"
"""The view of all rows, with every column and those of `HeldColumns` beside, read from the files."""
MAYBE = "_maybe"
"""The view of the rows that an expression must be held against."""
MOST_LOOKED_AT = 2_000
"""So many rows are found by their names; more are looked through as they come."""
Fingerprint = tuple[tuple[str, int, int], ...]


class OpenedRun:
    """A connection to a run's views, one user at a time."""

    def __init__(self, path: Path, held: HeldRows, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._held = held
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._sources: Sources | None = None
        self._seen: Fingerprint = ()
        self._made: set[str] = set()
        self._due = 0.0
        self._is_forgotten = False

    @contextmanager
    def connection(
        self, facets: RunFacets, needs: RowNeeds, where: str | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """The views as they are now, with CHOSEN: all rows, or what the predicate `where` lets pass.

        Raises InputError with DuckDB's complaint, also about what is done with it, or where that takes too long.
        """
        with self._lock:
            connection = self._current(facets)
            ending = threading.Timer(QUERY_SECONDS, connection.interrupt)
            ending.start()
            try:
                self._choose(connection, facets, needs, where)
                yield connection
            except duckdb.InterruptException:
                raise InputError(f"this took longer than {QUERY_SECONDS:.0f} s: narrow it down") from None
            except (duckdb.Error, pa.ArrowException) as error:
                raise InputError(f"the rows could not be chosen: {error}") from error
            finally:
                ending.cancel()
                if self._is_forgotten:
                    self._close()

    def keep(self, connection: duckdb.DuckDBPyConnection, name: str, query: Callable[[str], str]) -> None:
        """Make a table of the rows of a query over all units, once as long as the run stays as it is."""
        if name not in self._made and self._sources is not None:
            source = self._sources.of(connection, RowNeeds())
            connection.execute(f"create or replace temp table {name} as {query(source)}")
            self._made.add(name)

    def hold(self, facets: RunFacets) -> None:
        """Begin to hold, in the background, what was read from files."""
        sources = self._sources
        if sources is not None:
            self._held.build(sources.now, facets)

    @property
    def seen(self) -> Fingerprint:
        """What the connection was made from: other than before, and all counts are others."""
        return self._seen

    def close(self) -> None:
        """Close the connection; asking for it opens it again."""
        with self._lock:
            self._close()

    def forget(self) -> None:
        """The same without waiting: whoever is using it closes it."""
        self._is_forgotten = True
        if self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()

    def _current(self, facets: RunFacets) -> duckdb.DuckDBPyConnection:
        found = fingerprint(self.path)
        began = self._monotonic()
        if self._connection is not None and (found == self._seen or began < self._due):
            return self._connection
        self._close()
        run = RunDirectory(self.path)
        now = snapshot(run, run_schema(run))
        connection = duckdb.connect(":memory:")
        has_older = make_views(connection, now)
        connection.execute("set TimeZone = 'UTC'")
        confine(connection, self.path)
        ended = self._monotonic()
        self._due = ended + max(LEAST_AGE_SECONDS, (ended - began) / MOST_OF_THE_TIME)
        self._sources = Sources(now, self._held, self._held.columns(now, facets), has_older=has_older)
        self._connection, self._seen = connection, found
        return connection

    def _choose(
        self, connection: duckdb.DuckDBPyConnection, facets: RunFacets, needs: RowNeeds, where: str | None
    ) -> None:
        """A predicate is parsed as one expression: it can neither end the statement nor begin another.

        It may name any column of results: those that are not held are read from the files.
        """
        assert self._sources is not None
        scored = structs.replace(needs, is_scored=bool(facets.scores))
        for wanted in dict.fromkeys((needs, scored)):
            rows = connection.view(self._sources.of(connection, wanted))
            try:
                rows = rows if where is None else rows.filter(where)
            except duckdb.BinderException:  # a column that is not held, or nonsense: the files know
                continue
            rows.create_view(CHOSEN, replace=True)
            return
        connection.view(self._sources.from_files(connection)).filter(where).create_view(CHOSEN, replace=True)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._sources = None
        self._made.clear()
        self._is_forgotten = False


class Sources:
    """Views of all rows in one connection: what is held, and from the files what is not."""

    def __init__(self, now: Snapshot, held: HeldRows, columns: HeldColumns, *, has_older: bool) -> None:
        self.now = now
        self._held = held
        self._columns = columns
        self._has_older = has_older
        self._made: dict[str, tuple[int, ...]] = {}

    def of(self, connection: duckdb.DuckDBPyConnection, needs: RowNeeds) -> str:
        """The name of a view that has what is needed."""
        if not set(needs.columns) <= {*self._columns.narrow, *self._scores(needs)}:
            near = None if needs.certain is None else self._that_have(connection, needs.certain)
            return self.from_files(connection) if near is None else near
        name = f"_units{'_with_texts' if needs.texts else ''}{'_scored' if needs.is_scored else ''}"
        held = {
            number: part
            for number, part in self._held.parts(self.now).items()
            if not needs.texts or part.low is not None
        }
        if self._made.get(name) != tuple(held):
            self._make(connection, name, held, needs)
            self._made[name] = tuple(held)
        return name

    def _that_have(self, connection: duckdb.DuckDBPyConnection, text: str) -> str | None:
        """The name of a view of the rows that may have a text somewhere; None where they are many."""
        units = self.of(connection, RowNeeds(texts=True))
        query = f"select {SEQUENCE} from {units} where {LOW} is null or contains({LOW}, lower(?)) limit ?"
        keys = [str(key) for (key,) in connection.execute(query, [text, MOST_LOOKED_AT + 1]).fetchall()]
        if len(keys) > MOST_LOOKED_AT:
            return None
        within = f"{SEQUENCE} in ({', '.join(keys)})" if keys else "false"
        source = f"select * from {self.from_files(connection)} where {within}"
        connection.execute(f"create or replace temp view {MAYBE} as {source}")
        return MAYBE

    def from_files(self, connection: duckdb.DuckDBPyConnection) -> str:
        """The name of the view that has every column."""
        if FROM_FILES not in self._made:
            beside = self._columns.beside()
            connection.execute(f"create temp view {FROM_FILES} as select *, {', '.join(beside)} from {CURRENT}")
            self._made[FROM_FILES] = ()
        return FROM_FILES

    def _make(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        held: Mapping[int, HeldPart],
        needs: RowNeeds,
    ) -> None:
        rest = f"_rest_of{name}"
        connection.execute(f"drop view if exists {quoted(rest)}")
        make_finals_view(connection, rest, self.now, [one for one in self.now.sealed if one not in held])
        source = f"select {', '.join(self._columns.of_final(texts=needs.texts))} from {quoted(rest)}"
        if held:
            table = pa.concat_tables([part.table(texts=needs.texts) for part in held.values()])
            connection.register(f"_held_of{name}", table)
            of_held = ", ".join(self._columns.of_held(texts=needs.texts))
            source = f"select {of_held} from {quoted(f'_held_of{name}')} union all by name {source}"
        scores = "".join(f", _scores.{quoted(score)}" for score in self._scores(needs))
        holding = current_of(f"({source})", self.now.schema, is_scored=needs.is_scored, has_older=self._has_older)
        connection.execute(f"create or replace temp view {name} as select final.*{scores} {holding}")

    def _scores(self, needs: RowNeeds) -> list[str]:
        return score_columns(self.now.schema) if needs.is_scored else []


def fingerprint(path: Path) -> Fingerprint:
    """Names, sizes and times of the files that results and attempts are read from."""
    run = RunDirectory(path)
    files = [run.job, run.scores]
    files += [file for folder in (run.journal, run.parts, run.attempts) for file in _files(folder)]
    return tuple((str(file), *_size_and_time(file)) for file in files)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if is_folder(folder) else []


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return -1, -1
    return found.st_size, found.st_mtime_ns
