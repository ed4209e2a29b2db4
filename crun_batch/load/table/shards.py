"""Which of a table's rows belong to one of several shards: by a hash of what a row is, never of where it stands.

The hash is SHA-256, of which the first 8 bytes are read as a number, the most significant first. So anybody can
tell a row's shard, in any language and at any time: `int(sha256(id).hexdigest()[:16], 16) % count + 1`, where the
id is the text that the results show. Every shard is told by all of its rows, and no row by two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

import pyarrow as pa
from msgspec.structs import replace

from crun_batch.load.table.selection import select_positions
from crun_batch.load.table.table import Table


def shard_number(text: str, count: int) -> int:
    """The shard, from 1 to `count`, of the row that has this id, or is made of these values."""
    return int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) % count + 1


def only_shard(table: Table, number: int, count: int, alike: Sequence[str] = ()) -> Table:
    """The table with those of its selected rows that belong to shard `number` of `count`; there may be none.

    A row belongs where its id says, or with `alike` where its values in these columns say: rows that are the same
    there are then in the same shard. Reads what it decides by of all selected rows.
    """
    found = _by_values(table, number, count, alike) if alike else _by_id(table, number, count)
    positions = (pa.record_batch({"position": pa.array(batch, pa.int64())}) for batch in found)
    return replace(table, selection=select_positions(positions, table.source_rows))


def _by_id(table: Table, number: int, count: int) -> Iterator[list[int]]:
    for batch in table.identities(table.selection)():
        pairs = zip(batch.column("position").to_pylist(), batch.column("id").to_pylist(), strict=True)
        yield [position for position, row_id in pairs if shard_number(str(row_id), count) == number]


def _by_values(table: Table, number: int, count: int, columns: Sequence[str]) -> Iterator[list[int]]:
    names = sorted(columns)
    for batch in table.rows(names):
        texts = (repr([row.values[name] for name in names]) for row in batch)
        yield [row.position for row, text in zip(batch, texts, strict=True) if shard_number(text, count) == number]
