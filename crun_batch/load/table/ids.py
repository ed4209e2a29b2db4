"""Ids as keys of 8 bytes: which of them are not unique, and where in the source each stands. Pure.

A whole number is its own key, a text's are hashes: equal ones raise a suspicion in the search for duplicates, and
two of 64 bits each decide where an id stands. So ten million ids of any length are compared in a few hundred MB,
and more than KEYS_AT_ONCE of them in several passes. Few ids are compared and found as they are, and polars, which
makes the keys, is not loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from crun_batch.load.table.types import convert

if TYPE_CHECKING:
    import polars as pl

FEW_ROWS = 1 << 16
KEYS_AT_ONCE = 1 << 24
_SOUGHT_AT_ONCE = 1 << 20
_BATCHES_AT_ONCE = 16
Identities = Callable[[], Iterator[pa.RecordBatch]]
"""Makes a fresh stream of batches with the columns position (int64) and id (int64 or text)."""


def key_of(ids: pa.Array | pa.ChunkedArray, seed: int = 0) -> pl.Series:
    """The keys of ids, whole numbers or texts."""
    import polars as pl

    series = pl.Series(pl.from_arrow(ids))
    return series if series.dtype.is_integer() else series.hash(seed)


def repeated_keys(identities: Identities, rows: int) -> pl.Series | None:
    """The keys that several of the ids have, each once; None where there are none."""
    if rows <= FEW_ROWS and _are_unique(identities):
        return None
    import polars as pl

    passes = -(-rows // KEYS_AT_ONCE)
    found = []
    for number in range(passes):
        keys = pl.concat([_share(key_of(ids), number, passes) for ids in _ids(identities)]).sort()
        repeated = keys.filter(keys == keys.shift(1)).unique()
        if len(repeated):
            found.append(repeated)
    return pl.concat(found) if found else None


def _are_unique(identities: Identities) -> bool:
    ids = pa.chunked_array([batch.column("id") for batch in identities()])
    return bool(pc.count_distinct(ids).as_py() == len(ids))


def _share(keys: pl.Series, number: int, passes: int) -> pl.Series:
    return keys if passes == 1 else keys.filter(keys.hash(1) % passes == number)


class Places(Struct, frozen=True):
    """Where unique ids stand, sorted by key: 8 bytes for each whole number in order, 20 at most."""

    id_type: pa.DataType
    keys: pl.Series
    checks: pl.Series | None
    """A second hash of each text."""
    order: pl.Series | None
    """The position of each key; None: its index."""

    def find(self, finished: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """The batches with `position` (int64) in place of their column `id`, without those that stand nowhere."""
        for table in _sought(finished, self.id_type):
            yield from self._found(table)

    def _found(self, finished: pa.Table) -> list[pa.RecordBatch]:
        import polars as pl

        ids = finished.column("id").combine_chunks()
        keys, checks = key_of(ids), None if self.checks is None else key_of(ids, 1)
        others = finished.drop_columns("id")
        if not keys.is_sorted():  # neighbours are found near each other
            by_key = keys.arg_sort()
            keys, others = keys.gather(by_key), others.take(by_key.to_arrow())
            checks = None if checks is None else checks.gather(by_key)
        indices = self.keys.search_sorted(keys).clip(upper_bound=len(self.keys) - 1)
        known = self.keys.gather(indices) == keys
        if self.checks is not None and checks is not None:
            known &= self.checks.gather(indices) == checks
        positions = (indices if self.order is None else self.order.gather(indices)).cast(pl.Int64)
        names = ["position", *others.column_names]
        placed = pa.Table.from_arrays([positions.to_arrow(), *others.columns], names)
        found: list[pa.RecordBatch] = (placed if known.all() else placed.filter(known.to_arrow())).to_batches()
        return found


class FewPlaces(Struct, frozen=True):
    """Where a few unique ids stand: each at its index."""

    id_type: pa.DataType
    ids: pa.Array

    def find(self, finished: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """As those of many ids are found."""
        for table in _sought(finished, self.id_type):
            positions = pc.index_in(table.column("id"), value_set=self.ids).cast(pa.int64())
            others = table.drop_columns("id")
            names = ["position", *others.column_names]
            placed = pa.Table.from_arrays([positions, *others.columns], names)
            yield from placed.filter(positions.is_valid()).to_batches()


def _sought(finished: pa.RecordBatchReader, id_type: pa.DataType) -> Iterator[pa.Table]:
    """Very many of the units at once, their ids in this type."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in finished:
        waiting.append(batch)
        rows += len(batch)
        if rows >= _SOUGHT_AT_ONCE:
            yield _with_ids_of(waiting, id_type)
            waiting, rows = [], 0
    if rows:
        yield _with_ids_of(waiting, id_type)


def _with_ids_of(batches: list[pa.RecordBatch], id_type: pa.DataType) -> pa.Table:
    return with_ids(pa.Table.from_batches(batches).unify_dictionaries().combine_chunks(), id_type)


def places_of(identities: Identities, rows: int, id_type: pa.DataType) -> Places | FewPlaces:
    """Where each of so many ids stands, the first at position 0."""
    if rows <= FEW_ROWS:
        return FewPlaces(id_type, pa.concat_arrays([batch.column("id") for batch in identities()]))
    keys, checks = _keys(identities, id_type)
    if keys.is_sorted():
        return Places(id_type, keys, checks, None)
    order = keys.arg_sort()
    return Places(id_type, keys.gather(order), None if checks is None else checks.gather(order), order)


def _keys(identities: Identities, id_type: pa.DataType) -> tuple[pl.Series, pl.Series | None]:
    import polars as pl

    keys, checks = [], []
    for ids in _ids(identities):
        keys.append(key_of(ids))
        if not pa.types.is_integer(id_type):
            checks.append(key_of(ids, 1))
    return pl.concat(keys), pl.concat(checks) if checks else None


def _ids(identities: Identities) -> Iterator[pa.ChunkedArray]:
    """The ids, many at once: a key costs less than a call."""
    waiting: list[pa.Array] = []
    for number, batch in enumerate(identities(), 1):
        waiting.append(batch.column("id"))
        if not number % _BATCHES_AT_ONCE:
            yield pa.chunked_array(waiting)
            waiting = []
    if waiting:
        yield pa.chunked_array(waiting)


def with_ids(finished: pa.Table, id_type: pa.DataType) -> pa.Table:
    """The table with its column `id` in this type, without the texts that are no whole number as it is written."""
    ids = finished.column("id").combine_chunks()
    if pa.types.is_integer(id_type) and not pa.types.is_integer(ids.type):
        import polars as pl

        texts = pl.Series(pl.from_arrow(convert(ids, pa.string())))
        numbers = texts.cast(pl.Int64, strict=False)
        kept = (numbers.cast(pl.String) == texts).fill_null(value=False).to_arrow()
        finished, ids = finished.filter(kept), numbers.to_arrow().filter(kept)
    index = finished.schema.get_field_index("id")
    return finished.set_column(index, "id", convert(ids, id_type))
