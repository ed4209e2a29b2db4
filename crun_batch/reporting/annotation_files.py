"""Annotations to and from files of other tools: .csv, .jsonl, .parquet, in the columns of annotations.parquet.

A file from a labelling tool needs the id and one of label, verdict and comment; what else it has is left alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from crun_batch.console.disagreements import exported
from crun_batch.errors import InputError, Mistake
from crun_batch.reporting.annotating import this_person
from crun_batch.store.annotations import SAID, Annotation, add_annotations, all_annotations, annotations_that_hold
from crun_batch.store.cells import unguarded, without_controls
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import opened_for_people
from crun_batch.store.views import results_frame, run_schema

MISTAKES_TOLD = 20
_UNIT = ("variant", "repeat")
_TEXTS = ("variant", "answer_hash", *SAID, "annotator")


def export_annotations(path: Path, target: Path) -> int:
    """Write every line; how many they are. Raises InputError (no run, the ending), RunDamaged, DiskFailed."""
    found = pl.DataFrame(pl.from_arrow(all_annotations(path)))
    written = _WRITERS.get(target.suffix.lower())
    if written is None:
        raise InputError(f"{target}: its ending must be one of {', '.join(_WRITERS)}")
    with opened_for_people(target) as stream:
        stream.write(written(found))
    return found.height


def import_annotations(path: Path, source: Path, annotator: str | None = None) -> int:
    """Save the lines of a file; how many were new. The same file again adds none.

    `annotator` says whose they are where the file does not. Raises InputError with every mistake of the file,
    RunDamaged, DiskFailed: then none of it is saved.
    """
    schema = run_schema(RunDirectory(path))
    lines = _read(source)
    names = lines.columns
    key = schema.id_name if schema.id_name in names else "id"
    if key not in names or not set(SAID) & set(names):
        raise InputError(
            f"{source}: needs the column {schema.id_name} (or id), and one of {', '.join(SAID)}; it has "
            f"{', '.join(names)}"
        )
    now = datetime.now(UTC)
    said = [_annotation(line, key, annotator or this_person(), now) for line in lines.iter_rows(named=True)]
    _check_units(path, source, said)
    return add_annotations(path, list(_news(path, said)))


def _read(source: Path) -> pl.DataFrame:
    reader = _READERS.get(source.suffix.lower())
    if reader is None:
        raise InputError(f"{source}: its ending must be one of {', '.join(_READERS)}")
    try:
        return reader(source.read_bytes())
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror or error}") from error
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{source}: cannot be read: {error}") from error


def _annotation(line: Mapping[str, Any], key: str, annotator: str, now: datetime) -> Annotation:
    texts = {name: _text(line.get(name)) for name in _TEXTS}
    moment = line.get("annotated_at") or now
    try:
        at = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment))
        repeat = None if line.get("repeat") in (None, "") else int(line["repeat"])
    except ValueError as error:
        raise InputError(f"row {line[key]!r}: {error}") from error
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    if texts["variant"] is not None and repeat is None:
        repeat = 0
    return Annotation(
        row_id=line[key],
        annotator=texts["annotator"] or annotator,
        annotated_at=round((at - datetime.fromtimestamp(0, UTC)).total_seconds() * 1e6),
        variant=texts["variant"],
        repeat=repeat,
        answer_hash=texts["answer_hash"],
        label=texts["label"],
        verdict=texts["verdict"],
        comment=texts["comment"],
    )


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _check_units(path: Path, source: Path, said: Sequence[Annotation]) -> None:
    """Every line is about a row, and where it names one, an answer, of this run."""
    schema = run_schema(RunDirectory(path))
    units = results_frame(path).select(pl.col(schema.id_name).cast(pl.String).alias("id"), *_UNIT).collect()
    rows, answers = set(units["id"]), set(units.iter_rows())
    mistakes = []
    for number, one in enumerate(said, 1):
        if str(one.row_id) not in rows:
            mistakes.append(Mistake(f"the run has no row {one.row_id!r}", file=str(source), row=number))
        elif one.variant is not None and (str(one.row_id), one.variant, one.repeat) not in answers:
            words = f"row {one.row_id!r} has no answer of variant {one.variant!r}, repeat {one.repeat}"
            mistakes.append(Mistake(words, file=str(source), row=number))
    if mistakes:
        more = len(mistakes) - MISTAKES_TOLD
        rest = [Mistake(f"and {more:,} more like that", file=str(source))] if more > 0 else []
        raise InputError([*mistakes[:MISTAKES_TOLD], *rest])


def _news(path: Path, said: Sequence[Annotation]) -> Iterator[Annotation]:
    """Those that say something else than what holds: a file without times says the same again each time."""
    names = ["id", *_UNIT, "answer_hash", *SAID, "annotator"]
    held = {tuple(map(_comparable, line)) for line in annotations_that_hold(path).select(names).iter_rows()}
    for one in said:
        if one.label is one.verdict is one.comment is None:
            continue
        values = (
            one.row_id,
            one.variant,
            one.repeat,
            one.answer_hash,
            one.label,
            one.verdict,
            one.comment,
            one.annotator,
        )
        if tuple(map(_comparable, values)) not in held:
            yield one


def _comparable(value: Any) -> str | None:
    return None if value is None else without_controls(str(value))  # as a CSV says it


def _read_csv(data: bytes) -> pl.DataFrame:
    texts = pl.read_csv(data, infer_schema=False)
    return texts.select(pl.all().map_elements(unguarded, return_dtype=pl.String))


def _parquet(found: pl.DataFrame) -> bytes:
    stream = io.BytesIO()
    found.write_parquet(stream)
    return stream.getvalue()


_WRITERS = {
    ".csv": lambda found: exported(found, "csv").encode(),
    ".jsonl": lambda found: exported(found, "jsonl").encode(),
    ".parquet": _parquet,
}
_READERS: Mapping[str, Callable[[bytes], pl.DataFrame]] = {
    ".csv": _read_csv,
    ".jsonl": lambda data: pl.read_ndjson(data, infer_schema_length=None),
    ".parquet": lambda data: pl.read_parquet(data),
}
