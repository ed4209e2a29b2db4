"""One word of a person about one answer, or about a row, saved at once."""

from __future__ import annotations

import getpass
import time
from pathlib import Path

import polars as pl
from msgspec import UNSET, Struct, UnsetType

from crun_batch.errors import InputError
from crun_batch.store.annotations import SAID, Annotation, answer_hash, change_annotation
from crun_batch.store.directory import RunDirectory
from crun_batch.store.views import results_frame, run_schema


class SaidOfAnswer(Struct, frozen=True):
    """What is said of a row, or of the answer of one variant to it; all three None takes back what was said.

    What is left out stays as the same person last said it.
    """

    row_id: int | str
    variant: str | None = None
    repeat: int = 0
    label: str | UnsetType | None = UNSET
    verdict: str | UnsetType | None = UNSET
    comment: str | UnsetType | None = UNSET
    annotator: str | None = None
    """Default: the user of this machine."""


def save_annotation(path: Path, said: SaidOfAnswer) -> Annotation:
    """Save it with the hash of the answer as it stands; on the disk when it returns.

    Raises InputError where there is no such row or answer, RunDamaged, DiskFailed.
    """
    answers = _answers(path, said.row_id)
    if answers.is_empty():
        raise InputError(f"{path}: the run has no finished row {said.row_id!r}")
    hashed = None
    if said.variant is not None:
        found = answers.filter(pl.col("variant") == said.variant, pl.col("repeat") == said.repeat)
        if found.is_empty():
            words = f"row {said.row_id!r} has no answer of variant {said.variant!r}, repeat {said.repeat}"
            raise InputError(f"{path}: {words}")
        hashed = answer_hash(found["output_text"][0])
    annotation = Annotation(
        row_id=answers["id"][0],
        annotator=said.annotator or this_person(),
        annotated_at=time.time_ns() // 1000,
        variant=said.variant,
        repeat=None if said.variant is None else said.repeat,
        answer_hash=hashed,
        label=said.label or None,
        verdict=said.verdict or None,
        comment=said.comment or None,
    )
    return change_annotation(path, annotation, [name for name in SAID if getattr(said, name) is UNSET])


def this_person() -> str:
    """Who annotates where nobody says so: the user of this machine."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number without a name
        return "somebody"


def _answers(path: Path, row_id: int | str) -> pl.DataFrame:
    """The answers of one row: `id` as the run has it, `variant`, `repeat`, `output_text`."""
    name = run_schema(RunDirectory(path)).id_name
    columns = [pl.col(name).alias("id"), "variant", "repeat", "output_text"]
    chosen = results_frame(path).select(columns)
    of_type = chosen.collect_schema()["id"]
    if of_type.is_integer():
        try:
            row_id = int(row_id)
        except ValueError:
            raise InputError(f"{path}: {row_id!r} is no row: the ids are whole numbers") from None
    return chosen.filter(pl.col("id") == pl.lit(row_id, of_type)).collect()
