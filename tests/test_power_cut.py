"""After a power cut, at any moment: what was synced is there, and every file under its name is whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_kit import ManualSyncer, answer, open_run

from crun_batch.store.directory import RunDirectory, write_json
from crun_batch.store.disk import Disk
from crun_batch.store.journal import create_journal
from crun_batch.store.recover import recover
from crun_batch.store.results import publish
from crun_batch.store.schema import RunSchema, schema_document
from crun_batch.store.seal import seal_segment
from crun_batch.store.verify import verify
from crun_batch.store.views import attempts_frame, results_frame

SCHEMA = RunSchema(id_name="review_id", id_type=pa.int64())


class Inode:
    """A file's bytes, as far as they are on the disk for sure."""

    def __init__(self) -> None:
        self.durable = b""


class PowerDisk(Disk):
    """Keeps, beside the real files, what a power cut would leave: synced bytes, synced folder entries."""

    def __init__(self) -> None:
        self.entries: dict[Path, Inode | str] = {}
        self.durable_entries: dict[Path, Inode | str] = {}
        self.open_files: dict[int, Path] = {}
        self.after_step = lambda: None

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self.entries[path] = Inode()
        self.open_files[descriptor] = path
        self.after_step()
        return descriptor

    def reserve(self, path: Path, length: int) -> int:
        descriptor = super().reserve(path, length)
        self.entries[path] = Inode()
        self.open_files[descriptor] = path
        return descriptor

    def reopen(self, path: Path) -> int:
        descriptor = super().reopen(path)
        self.open_files[descriptor] = path
        return descriptor

    def sync(self, descriptor: int) -> None:
        path = self.open_files[descriptor]
        self.entries[path].durable = path.read_bytes()
        self.after_step()

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.entries[target] = self.entries.pop(source)
        self.after_step()

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.entries.pop(path, None)
        self.after_step()

    def symlink(self, target: str, path: Path) -> None:
        super().symlink(target, path)
        self.entries[path] = target
        self.after_step()

    def sync_folder(self, path: Path) -> None:
        kept = {name: entry for name, entry in self.durable_entries.items() if name.parent != path}
        self.durable_entries = kept | {name: entry for name, entry in self.entries.items() if name.parent == path}
        self.after_step()

    def signature(self, names_survive: bool) -> int:
        entries = self.entries if names_survive else self.durable_entries
        return hash(frozenset((path, getattr(entry, "durable", entry)) for path, entry in entries.items()))

    def left(self, source: Path, target: Path, *, names_survive: bool) -> RunDirectory:
        """The run as it is after the cut: of unsynced folder entries all survive, or none."""
        for folder in ("attempts", "journal/parts"):
            (target / folder).mkdir(parents=True)
        for path, entry in (self.entries if names_survive else self.durable_entries).items():
            place = target / path.relative_to(source)
            if isinstance(entry, str):
                place.symlink_to(entry)
            else:
                place.write_bytes(entry.durable)
        return RunDirectory(target)


def was_published(run: RunDirectory) -> bool:
    """Whether a generation of results is there, or is told to have been: then the link to it is missed."""
    told = run.manifest.read_text() if run.manifest.exists() else ""
    return any(run.journal.glob("results-*.parquet")) or "/results-" in told


@pytest.mark.parametrize("names_survive", [False, True])
def test_a_power_cut_at_any_moment_loses_only_what_was_not_synced(tmp_path, names_survive):
    """A run with appends, a rotation, a seal, publications; cut after each disk operation; recovered; verified."""
    disk = PowerDisk()
    run = open_run(tmp_path / "run", disk)
    synced = cuts = 0
    seen: set[tuple[int, int]] = set()

    def check():
        nonlocal cuts
        state = disk.signature(names_survive), synced
        if state in seen:
            return
        seen.add(state)
        left = disk.left(run.path, tmp_path / "left", names_survive=names_survive)
        recovered = recover(left)
        cuts += 1
        if recovered is None:
            assert 0 == synced
        else:
            assert (
                synced <= attempts_frame(left.path).collect().height == results_frame(left.path).collect().height
            )
            is_there = left.results.is_symlink()
            if is_there:
                assert pq.read_table(left.results).num_rows <= 4
            missing = ["results.parquet"] if was_published(left) and not is_there else []
            errors = [finding for finding in verify(left.path, data=True) if finding.severity == "error"]
            assert missing == [finding.file for finding in errors]
        shutil.rmtree(left.path)

    write_json(run, run.job, {"run_schema": schema_document(SCHEMA)})
    disk.after_step = check
    journal = create_journal(run, None, syncer=ManualSyncer())
    for row in (1, 2):
        answer(journal, row)
    journal.sync()
    synced = 2
    publish(run, SCHEMA)
    answer(journal, 3)
    closed = journal.maybe_rotate(lambda: "checkpoint", force=True)
    synced = 3
    answer(journal, 4)
    seal_segment(run, closed, SCHEMA)
    publish(run, SCHEMA)
    journal.sync()
    synced = 4
    publish(run, SCHEMA)
    disk.after_step = lambda: None
    run.close()
    assert cuts > 15
