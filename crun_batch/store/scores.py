"""Scores beside the results: one private file, derived from stored answers, that can be made anew at any time.

A line belongs to one recorded final, by its sequence: an answer that replaces another has none until it is
scored. What the lines are computed from is named by a fingerprint in the file's metadata. Owns: that file. Must
not know: how anything is graded.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crun_batch.paths import is_there
from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import SEQUENCE, RunSchema, no_rows, score_columns
from crun_batch.store.seal import put_in_place, write_parquet

FINGERPRINT = b"crun_batch.scores"
INCOMPLETE = "_incomplete"
"""Some grader could not be computed for this answer: it is tried again by the next session."""


def scores_schema(schema: RunSchema) -> pa.Schema:
    """The columns of the file: the final's sequence, whether a score is missing, one double per score."""
    scores = [pa.field(name, pa.float64()) for name in score_columns(schema)]
    return pa.schema([pa.field(SEQUENCE, pa.int64()), pa.field(INCOMPLETE, pa.bool_()), *scores])


def scores_table(run: RunDirectory, schema: RunSchema) -> pa.Table:
    """The sequence and the scores of all scored finals; a score that the file does not have is null.

    24 bytes for each line and score at most, in memory. Raises pa.ArrowException where the file is damaged.
    """
    target = scores_schema(schema).remove(1)
    try:
        found = _read(run)
    except FileNotFoundError:
        return no_rows(target)
    columns = [
        found.column(field.name) if field.name in found.column_names else pa.nulls(found.num_rows, field.type)
        for field in target
    ]
    return pa.table(columns, schema=target)


def scores_near(scores: pa.Table, sequences: pa.ChunkedArray) -> pa.Table:
    """The lines among which those of these finals are: of a million a few thousand."""
    extent, known = pc.min_max(sequences), scores.column(SEQUENCE)
    inside = pc.and_(pc.greater_equal(known, extent["min"]), pc.less_equal(known, extent["max"]))
    return scores.filter(inside)


def complete_scores(run: RunDirectory, schema: RunSchema, fingerprint: str) -> pa.Table:
    """The lines, in `scores_schema`, that need not be computed again; none of another fingerprint."""
    columns = scores_schema(schema)
    if not is_there(run.scores):
        return no_rows(columns)
    found = _read(run)
    if (found.schema.metadata or {}).get(FINGERPRINT) != fingerprint.encode():
        return no_rows(columns)
    kept = found.filter(pc.invert(found.column(INCOMPLETE)))
    return kept.select(columns.names).replace_schema_metadata(None)


def write_scores(run: RunDirectory, schema: RunSchema, table: pa.Table, fingerprint: str) -> None:
    """Replace the file at once. Needs the lock. Raises DiskFailed."""
    metadata = {FINGERPRINT: fingerprint.encode()}
    ordered = table.sort_by(SEQUENCE)
    entry = write_parquet(run, run.scores, scores_schema(schema), [ordered], metadata)
    put_in_place(run, [run.scores], [entry])


def _read(run: RunDirectory) -> pa.Table:
    """The whole file. `pq.read_table` would load Arrow's datasets for it, and they pandas."""
    with pq.ParquetFile(run.scores, page_checksum_verification=True) as file:
        return file.read()
