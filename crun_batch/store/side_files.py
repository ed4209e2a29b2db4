"""What may lie in a run directory beside journal and results: batches, annotations, a control socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from crun_batch.store.annotations import UNFINISHED_NAME, all_annotations
from crun_batch.store.batches import batch_files, read_batches
from crun_batch.store.control import CONTROL_NAME
from crun_batch.store.directory import ANNOTATIONS_LOCK, ANNOTATIONS_NAME, RunDirectory


def side_files(run: RunDirectory) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Each with what reads all of it, and raises where it is damaged."""
    yield run.path / ANNOTATIONS_NAME, lambda: all_annotations(run.path)
    yield run.batches, lambda: read_batches(run)


def side_names(run: RunDirectory) -> Iterator[str]:
    """The names within the run directory that they may have."""
    yield from (ANNOTATIONS_NAME, ANNOTATIONS_LOCK, UNFINISHED_NAME)
    yield from batch_files(run)
    if (run.path / CONTROL_NAME).is_socket():
        yield CONTROL_NAME
