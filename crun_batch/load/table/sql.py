"""All that DuckDB does for the table: queries, predicates, duplicates, seeded samples, joins of very many ids.

Rules: every engine is private, has a bounded memory and a temporary folder to spill into, downloads nothing,
sees no Python variables. What users write is parsed first: one statement, selects only (a WITH may hold a COPY),
and no file that would be taken from the current directory instead of the job's. The engine itself then reads files
below the job's folders only, links resolved, whatever function asks for them, and changes no setting. Rows come
as Arrow batches and go as positions. Most tables need none of this: duckdb is loaded with the first engine.
"""

from __future__ import annotations

import glob
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.load.folders import ADVICE, Folders
from crun_batch.load.table.ids import Identities, key_of
from crun_batch.paths import is_file, is_folder

if TYPE_CHECKING:
    import duckdb
    import polars as pl

_BATCH_ROWS = 4096
_KIND_OF_ERROR = re.compile(r"^[A-Z][A-Za-z -]{2,30} Error: ")
"""The engine's name for the kind of an error: its sentence says more."""
_SELECTS = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_ALLOWED = {
    "input.query": "allowed is one SELECT in DuckDB's SQL over files",
    "input.where": "allowed is one DuckDB predicate over the table's columns, such as lang = 'en'",
}


class Duplicate(Struct, frozen=True):
    """An id that several rows have, and the positions of up to five of them."""

    row_id: int | str
    positions: tuple[int, ...]
    rows: int


@contextmanager
def _engine(folders: Folders | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    with tempfile.TemporaryDirectory(prefix="crun-batch-") as spill:
        config: dict[str, Any] = {
            "memory_limit": "512MB",
            "threads": 2,
            "temp_directory": spill,
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
        }
        if folders is not None:
            config["file_search_path"] = str(folders.base.resolve())
        with duckdb.connect(config=config) as connection:
            yield connection


class _Feed:
    """A stream of batches for an engine, which would turn our errors into its own."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self._error: InputError | None = None

    def reader(self, schema: pa.Schema) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(schema, self._guarded())

    def _guarded(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except InputError as error:
            self._error = error
            raise

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Our own error comes out as it was; the engine's as a mistake at `key`, with what is allowed there."""
        import duckdb

        try:
            yield
        except (_Unparsed, duckdb.Error, pa.ArrowException, OSError) as error:
            reason, excerpt = _reason(error)
            message = "; ".join(part for part in (reason, _ALLOWED.get(key)) if part)
            if excerpt and (key == "input.query" or isinstance(error, _Unparsed)):
                message += f"\n{excerpt}"
            raise self._error or InputError(Mistake(message, key=key)) from error


class _Unparsed(Exception):
    """A mistake in what the job says; an excerpt is of that, not of a statement of ours around it."""


def _reason(error: Exception) -> tuple[str, str]:
    """The engine's words, and its excerpt of the statement with a caret below; "" without one."""
    words, mark, excerpt = str(error).partition("\nLINE ")
    return _KIND_OF_ERROR.sub("", " ".join(words.split())), f"LINE {excerpt.rstrip()}" if mark else ""


def _excerpt(written: str, position: int) -> str:
    """The line that holds this position, with its number, and a caret below the place."""
    before = written[:position]
    start = before.rfind("\n") + 1
    head = f"LINE {before.count(chr(10)) + 1}: "
    line = written[start:].split("\n", 1)[0]
    return f"{head}{line}\n{' ' * (len(head) + position - start)}^"


@contextmanager
def query_reader(query: str, folders: Folders) -> Iterator[pa.RecordBatchReader]:
    """The query's rows as a stream, of files in `folders`. Raises InputError, also while it is read."""
    feed = _Feed(())
    with _engine(folders) as connection, feed.errors("input.query"):
        statements = connection.extract_statements(query)
        if len(statements) != 1:
            raise InputError(Mistake(f"must be one statement, found {len(statements)}", key="input.query"))
        names = _refuse_unsafe(_tree(connection, ("", query, "")), folders, "input.query")
        _confine(connection, folders, names)
        yield connection.sql(query).to_arrow_reader(_BATCH_ROWS)


def predicate_columns(where: str, schema: pa.Schema, folders: Folders) -> tuple[str, ...]:
    """The columns that the predicate reads. Raises InputError for one that is wrong, before any row is read."""
    feed = _Feed(())
    with _engine(folders) as connection, feed.errors("input.where"):
        tree = _where_tree(connection, where)
        _confine(connection, folders, _refuse_unsafe(tree, folders, "input.where"))
        connection.from_arrow(pa.Table.from_batches([], schema)).filter(where)
    if any(node.get("type") == "STAR" and node.get("columns") for node in _nodes(tree)):
        raise InputError(Mistake("COLUMNS(...) is not possible here; name the columns", key="input.where"))
    references = (node["column_names"] for node in _nodes(tree) if node.get("class") == "COLUMN_REF")
    used = {part.casefold() for names in references for part in names}
    return tuple(name for name in schema.names if name.casefold() in used)


def matching(
    where: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, folders: Folders
) -> Iterator[pa.RecordBatch]:
    """Positions of the rows for which the predicate is true; the position is the first column of `schema`."""
    feed = _Feed(batches)
    with _engine(folders) as connection, feed.errors("input.where"):
        _confine(connection, folders, _refuse_unsafe(_where_tree(connection, where), folders, "input.where"))
        rows = connection.from_arrow(feed.reader(schema)).filter(where)
        yield from rows.project(f'"{schema.names[0]}"').to_arrow_reader(_BATCH_ROWS)


def duplicates(identities: Identities, id_type: pa.DataType, suspects: pl.Series, count: int) -> list[Duplicate]:
    """Up to `count` of the ids with these keys that are not unique, those that come first."""
    schema = _identity_schema(id_type).append(pa.field("key", suspects.to_arrow().type))
    keyed = (batch.append_column("key", key_of(batch.column("id")).to_arrow()) for batch in identities())
    feed = _Feed(keyed)
    with _engine() as connection, feed.errors("input.id"):
        connection.register("ids", feed.reader(schema))
        connection.register("suspects", pa.table({"key": suspects.to_arrow()}))
        found = connection.execute(
            "select id, list(position order by position)[1:5], count(*) from ids"
            " where key in (select key from suspects) group by id having count(*) > 1"
            f" order by min(position) limit {int(count)}"
        ).fetchall()
    return [Duplicate(row_id, tuple(positions), rows) for row_id, positions, rows in found]


def smallest_hashes(
    identities: Identities, id_type: pa.DataType, count: int, seed: int
) -> Iterator[pa.RecordBatch]:
    """Positions of the `count` rows with the smallest md5 of "seed:id": the same on every machine, and nested."""
    feed = _Feed(identities())
    with _engine() as connection, feed.errors("input.sample"):
        connection.register("ids", feed.reader(_identity_schema(id_type)))
        yield from connection.sql(
            f"select position from ids order by md5('{int(seed)}:' || id::varchar), position limit {int(count)}"
        ).to_arrow_reader(_BATCH_ROWS)


def join_positions(
    finished: pa.RecordBatchReader, identities: Identities, id_type: pa.DataType
) -> Iterator[pa.RecordBatch]:
    """The finished batches with `position` in place of `id`, in any order; ids that no row has are left out."""
    feed = _Feed(identities())
    with _engine() as connection, feed.errors("input.id"):
        connection.register("ids", feed.reader(_identity_schema(id_type)))
        connection.register("finished", finished)
        yield from connection.sql(
            "select ids.position, finished.* exclude (id) from finished"
            " join ids on finished.id::varchar = ids.id::varchar"
        ).to_arrow_reader(_BATCH_ROWS)


def _identity_schema(id_type: pa.DataType) -> pa.Schema:
    return pa.schema([("position", pa.int64()), ("id", id_type)])


def _tree(connection: duckdb.DuckDBPyConnection, pieces: tuple[str, str, str]) -> dict[str, Any]:
    """The parsed statement, of which the middle piece is the user's.

    fetchall: a result that is not read to its end blocks the connection.
    """
    before, written, _ = pieces
    ((text,),) = connection.execute("select json_serialize_sql(?)", ["".join(pieces)]).fetchall()
    tree: dict[str, Any] = json.loads(text)
    if not tree["error"]:
        return tree
    if tree["error_type"] != "parser":
        raise _Unparsed("only a SELECT is possible")
    words = str(tree["error_message"])
    if "position" in tree:
        words += f"\n{_excerpt(written, min(max(0, int(tree['position']) - len(before)), len(written)))}"
    raise _Unparsed(words)


def _where_tree(connection: duckdb.DuckDBPyConnection, where: str) -> dict[str, Any]:
    return _tree(connection, ("select 1 where (", where, "\n)"))


def _nodes(tree: object) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _nodes(item)


def _refuse_unsafe(tree: dict[str, Any], folders: Folders, key: str) -> list[str]:
    """The names of the files that the statement reads, as far as it spells them. Raises InputError."""
    names: list[str] = []
    for node in _nodes(tree):
        kind = node.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _SELECTS:
            found = kind.removesuffix("_NODE").removesuffix("_QUERY")
            raise InputError(Mistake(f"may only select; found {found}", key=key))
        names += [name for name in _file_names(node) if name]
    for name in names:
        _refuse_outside(name, folders, key)
        if not Path(name).is_absolute():
            _refuse_other_file(name, folders.base, key)
    return names


def _confine(connection: duckdb.DuckDBPyConnection, folders: Folders, names: Sequence[str]) -> None:
    """From here on the engine opens nothing outside the folders, not even for a name that is made up as it runs.

    It looks for a relative name in the current directory first, where `_refuse_other_file` found nothing else:
    that look has to be allowed too. What it opens then is checked again, links resolved.
    """
    here = [str(Path.cwd() / name) for name in names if not Path(name).is_absolute()]
    files = [str(root) for root in folders.roots if not is_folder(root)]
    directories = [f"{str(root).rstrip('/')}/" for root in folders.roots if is_folder(root)]
    connection.execute(f"set allowed_paths = [{', '.join(map(_quoted, [*here, *files]))}]")
    connection.execute(f"set allowed_directories = [{', '.join(map(_quoted, directories))}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _refuse_outside(name: str, folders: Folders, key: str) -> None:
    for path in _files(name, folders.base):
        if folders.resolved(path) is None:
            message = f"`{name}` is outside the job's folder {folders.base.resolve()}; {ADVICE}"
            raise InputError(Mistake(message, key=key))


def _file_names(node: dict[str, Any]) -> Iterator[str]:
    """What a node may read as a file: a table's name, or a text among a table function's arguments."""
    if node.get("type") == "BASE_TABLE":
        yield node["table_name"]
    elif node.get("type") == "TABLE_FUNCTION":
        literals = (each.get("literal") for each in _nodes(node))
        yield from (each["text"] for each in literals if isinstance(each, dict) and each.get("kind") == "STRING")


def _refuse_other_file(name: str, base_dir: Path, key: str) -> None:
    """DuckDB looks into the current directory before its search path, a list with commas that nothing escapes."""
    meant = _files(name, base_dir)
    if _files(name, Path.cwd()) - meant:
        message = (
            f"`{name}` is meant in {base_dir}, but also names a file in the current directory, which would be read"
            " instead; write the absolute path, or start from another directory"
        )
        raise InputError(Mistake(message, key=key))
    if meant and "," in str(base_dir.resolve()):
        message = f"write the absolute path of `{name}`; DuckDB cannot look into a folder with a comma in its path"
        raise InputError(Mistake(message, key=key))


def _files(pattern: str, folder: Path) -> set[Path]:
    """The files that a path or glob names in a folder. Path.glob would take neither a path nor `..`."""
    names = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207
    return {(folder / name).resolve() for name in names if is_file(folder / name)}
