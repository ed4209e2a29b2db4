"""The public functions that keep what people say of rows beside a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crun_batch.api.jobs import directory_of
from crun_batch.load.arguments import arguments_told

if TYPE_CHECKING:
    from crun_batch.api.run_handle import Run

    AnyRun = Run | str | Path


@arguments_told
def annotate(
    run: AnyRun,
    id: int | str,
    *,
    variant: str | None = None,
    repeat: int = 0,
    label: str | None = None,
    verdict: str | None = None,
    comment: str | None = None,
    annotator: str | None = None,
    simulate: bool = False,
) -> None:
    """Say what is right of a row, or of one answer to it: into `annotations.parquet`, on the disk on return.

    Args:
        run: a run directory, its job file, or a `Run`; it may be running.
        id: the row's id, a number or its text.
        variant: whose answer was looked at; None: the row itself is meant.
        repeat: which of the variant's answers.
        label: the row's right label, for `compare --gold annotations`.
        verdict: `pass` or `fail`, of that answer.
        comment: any words.
        annotator: who says so; default: the user of this machine.
        simulate: of a job file, its simulated run.

    A later call of the same annotator about the same answer holds in the place of the earlier one; without label,
    verdict and comment it takes it back. Raises InputError (no run, no such row or answer), RunDamaged,
    DiskFailed.

    """
    from crun_batch.reporting.annotating import SaidOfAnswer, save_annotation

    said = SaidOfAnswer(id, variant, repeat, label, verdict, comment, annotator)
    save_annotation(directory_of(run, simulate), said)


@arguments_told
def import_annotations(
    run: AnyRun, path: str | Path, *, annotator: str | None = None, simulate: bool = False
) -> int:
    """Take annotations from a file (.csv, .jsonl, .parquet); how many were new. Again, it adds none.

    The file has the id (under its own name, or `id`) and one of `label`, `verdict`, `comment`; it may have
    `variant`, `repeat`, `annotator`, `annotated_at`, `answer_hash`. `annotator`: who said so, where the file does
    not say. Raises InputError with every mistake (no such row or answer), and then saves none; RunDamaged,
    DiskFailed.
    """
    from crun_batch.reporting.annotation_files import import_annotations as take

    return take(directory_of(run, simulate), Path(path), annotator)


@arguments_told
def export_annotations(run: AnyRun, path: str | Path, *, simulate: bool = False) -> int:
    """Write every annotation of a run to a file (.csv, .jsonl, .parquet); how many they are.

    Columns: `id`, `variant`, `repeat`, `answer_hash`, `label`, `verdict`, `comment`, `annotator`, `annotated_at`.
    Raises InputError (no run, the file's ending), RunDamaged, DiskFailed.
    """
    from crun_batch.reporting.annotation_files import export_annotations as write

    return write(directory_of(run, simulate), Path(path))
