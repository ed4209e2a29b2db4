"""Whose the files of a run are, which names unfinished ones have, and that no link leads out of the directory."""

from __future__ import annotations

import io
import os
import shutil
import stat
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from store_kit import ManualSyncer, answer, open_run

import crun_batch
from crun_batch.api.run_handle import run_in
from crun_batch.errors import DiskFailed, RunDamaged
from crun_batch.reporting.read import read_report
from crun_batch.state.status import status_of
from crun_batch.store.directory import write_json
from crun_batch.store.disk import Disk, write_file
from crun_batch.store.export import export
from crun_batch.store.holder import holder
from crun_batch.store.journal import create_journal
from crun_batch.store.results import publish
from crun_batch.store.schema import RunSchema, schema_document
from crun_batch.store.seal import seal_segment
from crun_batch.store.verify import verify
from crun_batch.store.views import attempts_frame, query, results_frame

SCHEMA = RunSchema(id_name="id", id_type=pa.int64())


def build(path: Path, disk: Disk | None = None) -> Path:
    """A run with a sealed segment, a live one and results."""
    run = open_run(path, disk)
    write_json(run, run.job, {"run_schema": schema_document(SCHEMA)})
    journal = create_journal(run, None, syncer=ManualSyncer())
    answer(journal, 1)
    closed = journal.maybe_rotate(lambda: None, force=True)
    seal_segment(run, closed, SCHEMA)
    answer(journal, 2)
    publish(run, SCHEMA)
    journal.close()
    run.close()
    return path


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
def test_a_run_is_its_owners_alone_whatever_the_umask(tmp_path, umask):
    """Folders 0700, files 0600; folders above the run directory are as the umask says."""
    (tmp_path / "runs").mkdir()
    former = os.umask(umask)
    try:
        path = build(tmp_path / "runs" / "one")
    finally:
        os.umask(former)
    for place in (path, *path.rglob("*")):
        if not place.is_symlink():
            wanted = 0o700 if place.is_dir() else 0o600
            assert (place, oct(wanted)) == (place, oct(stat.S_IMODE(place.stat().st_mode)))


def test_folders_above_the_run_are_as_the_umask_says(tmp_path):
    path = build(tmp_path / "shared" / "one")
    assert 0o700 != stat.S_IMODE(path.parent.stat().st_mode)


class WatchfulDisk(Disk):
    """Notes the names of files as they are made, and the folders that were synced."""

    def __init__(self) -> None:
        self.created: list[Path] = []
        self.renamed: set[Path] = set()
        self.synced: list[Path] = []

    def create(self, path: Path) -> int:
        self.created.append(path)
        return super().create(path)

    def rename(self, source: Path, target: Path) -> None:
        self.renamed.add(source)
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        self.synced.append(path)
        super().sync_folder(path)


def test_every_unfinished_file_begins_with_a_dot(tmp_path):
    """Readers of a folder (pyarrow, polars, duckdb by `*`) pass over them."""
    disk = WatchfulDisk()
    build(tmp_path / "run", disk)
    assert disk.renamed
    assert [] == [path for path in disk.renamed if not path.name.startswith(".")]


def test_each_new_folder_is_on_the_disk_before_anything_is_sent(tmp_path):
    """The parents too: else a power cut takes the whole run, replies and all."""
    disk = WatchfulDisk()
    open_run(tmp_path / "a" / "b" / "run", disk).close()
    above = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert above == [path for path in disk.synced if path in above]
    assert tmp_path / "a" / "b" / "run" in disk.synced


def test_what_a_kill_left_unfinished_is_gone_after_the_next_start(tmp_path):
    """Under today's names and under former ones; the files of others stay."""
    path = build(tmp_path / "run")
    left = [
        path / ".job.json.tmp",
        path / "attempts" / ".000009.parquet.tmp",
        path / "attempts" / "000009.parquet.tmp",
    ]
    for file in left:
        file.write_bytes(b"")
    (path / "mine.tmp").write_bytes(b"")
    open_run(path).close()
    assert [path / "mine.tmp"] == [file for file in (*left, path / "mine.tmp") if file.exists()]


@pytest.mark.parametrize("opened", [open_run, holder])
def test_a_link_for_the_lock_is_not_followed(tmp_path, opened):
    path = build(tmp_path / "run")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (path / ".lock").unlink()
    (path / ".lock").symlink_to(victim)
    with pytest.raises(RunDamaged, match="lock is a link"):
        opened(path)
    assert "precious" == victim.read_text()


def test_a_link_for_a_temporary_file_or_the_reserve_is_not_followed(tmp_path):
    run = open_run(build(tmp_path / "run"))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (run.path / ".summary.json.tmp").symlink_to(victim)
    with pytest.raises(DiskFailed):
        write_file(run.disk, run.summary, b"x")
    run.reserve.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        run.disk.reserve(run.reserve, 10)
    run.close()
    assert "precious" == victim.read_text()


OURS = ["job.json", "summary.json", "journal", "journal/000002.jsonl", "journal/manifest.jsonl", "attempts"]
OURS += ["attempts/000001.parquet", "journal/parts", "journal/parts/000001.parquet", ".lock"]
READERS = {
    "status": status_of,
    "results": lambda path: results_frame(path).collect(),
    "attempts": lambda path: attempts_frame(path).collect(),
    "sql": lambda path: query(path, "select 1 from results"),
    "export": lambda path: export(path, "jsonl", io.BytesIO()),
    "report": read_report,
    "open_run": run_in,
    "resume": lambda path: open_run(path).close(),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run as the command line leaves it."""
    folder = tmp_path_factory.mktemp("finished")
    job = {"model": "gpt-5.4", "prompt": {"user": "{{ text }}"}, "output": {"dir": str(folder / "run")}}
    table = pl.DataFrame({"text": ["a", "b", "c"]})
    return crun_batch.run(crun_batch.Job(**job), table=table, simulate=True).directory


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", OURS)
def test_no_reader_follows_a_link_in_a_run_directory(tmp_path, finished, name, reader):
    """A run directory from somebody else shows nothing of the machine that reads it, and nothing is cut there."""
    path = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    READERS[reader](path)
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    before = sorted(file.stat().st_mtime_ns for file in tmp_path.rglob("*"))
    with pytest.raises(RunDamaged, match=f"{name} is a link"):
        READERS[reader](path)
    assert before == sorted(file.stat().st_mtime_ns for file in tmp_path.rglob("*"))


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path, finished):
    path = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    (path / "job.json").unlink()
    os.mkfifo(path / "job.json")
    with pytest.raises(RunDamaged, match=r"job\.json is no file"):
        status_of(path)
    assert ["job.json"] == [found.file for found in verify(path)]


@pytest.mark.parametrize("name", OURS)
def test_verify_sees_a_link_where_a_file_belongs(tmp_path, finished, name):
    path = shutil.copytree(finished, tmp_path / "run", symlinks=True)
    assert [] == [found.file for found in verify(path) if found.severity == "error"]
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    assert [(name, "is a link; a run directory holds files of its own")] == [
        (found.file, found.what) for found in verify(path) if found.severity == "error"
    ]
