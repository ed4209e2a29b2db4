"""`output.publish`: what of a run is final is copied to a bucket, while it runs and at its end.

The rules:
- The journal stays here. Sealed attempts go as they come, results, job.json and summary.json at a session's end.
  An object appears whole or not at all; what is there is listed in `published.json`, which is written last: who
  reads by that list reads files that belong together, each of the bytes that it says.
- After a copy its bytes are read back and compared by their sha256. What is listed with the right hash is not
  copied again, so a publication that was broken off goes on: at the next seal, at the end, at the next start.
- A place that lists another run is refused before anything is sent. Nothing is ever deleted there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from msgspec import Struct

from crun_batch.errors import DiskFailed, InputError, Mistake
from crun_batch.load.table.bucket import BUCKET_FAULTS, file_system
from crun_batch.paths import is_there
from crun_batch.state.run_state import RunContext
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.store.manifest import read_manifest
from crun_batch.store.results import linked_generation
from crun_batch.store.seal import file_digest

LIST_NAME = "published.json"
EVERY_SECONDS = 10.0
"""How often it is looked whether more has been sealed."""
_PIECE_BYTES = 1 << 20
KEY = "output.publish"


def publication_of(context: RunContext) -> Publication | None:
    """Where this run is published, ready to be written to; None: nowhere, as of every simulated run.

    Raises InputError where it cannot be written to, or holds another run.
    """
    address = context.workload.job.output.publish
    if address is None or context.options.simulate:
        return None
    publication = Publication(context.state.directory, address, identity_of(context))
    publication.begin()
    return publication


def identity_of(context: RunContext) -> dict[str, str | None]:
    """What tells this run from another: its name, and when it began. A new one has not begun."""
    job = context.state.directory.job
    document = read_json(job) if is_there(job) else {}
    return {"name": context.workload.job.name, "created_at": document.get("created_at")}


class LocalFile(Struct, frozen=True):
    """A file to be published: what it is called there, where it is here, its hash where that is known."""

    name: str
    path: Path
    sha256: str


class Publication:
    """The published copy of one run. Not for several threads at one time."""

    def __init__(self, run: RunDirectory, address: str, identity: Mapping[str, str | None]) -> None:
        self.address = address.rstrip("/")
        self._run = run
        self._identity = dict(identity)
        self._system, self._folder = file_system(self.address)
        self._listed: dict[str, dict[str, Any]] = {}

    def begin(self) -> None:
        """Read what is there, and see that it can be written to.

        Raises InputError where it cannot, or where another run is published there.
        """
        try:
            listed = self._read_list()
            if listed is not None and listed["files"] and listed["run"] != self._identity:
                says = f"{self.address} holds another run, {listed['run'].get('name')}: name a place of its own"
                raise InputError(Mistake(says, key=KEY))
            self._listed = dict(listed["files"]) if listed is not None else {}
            self._write_list(is_whole=bool(listed and listed["is_whole"]))
        except BUCKET_FAULTS as error:
            raise InputError(Mistake(f"{self.address} cannot be written to: {_words(error)}", key=KEY)) from None

    def called(self, identity: Mapping[str, str | None]) -> Publication:
        """Itself, for a run that has its name now: a new one has none before it has begun."""
        self._identity = dict(identity)
        return self

    def copy_sealed(self) -> int:
        """Copy what has been sealed since, and list it; how many files. Raises DiskFailed."""
        return self._copy(_sealed(self._run), is_whole=False)

    def copy_all(self) -> int:
        """Copy all that is final, and list it as a whole; how many files were copied. Raises DiskFailed."""
        return self._copy([*_sealed(self._run), *_at_the_end(self._run)], is_whole=True)

    def _copy(self, files: Iterator[LocalFile] | list[LocalFile], *, is_whole: bool) -> int:
        copied = 0
        try:
            for file in files:
                if self._listed.get(file.name, {}).get("sha256") != file.sha256:
                    self._listed[file.name] = self._put(file)
                    copied += 1
                    self._write_list(is_whole=False)
            if copied or is_whole:
                self._write_list(is_whole=is_whole)
        except BUCKET_FAULTS as error:
            raise DiskFailed(
                f"{self.address}: {_words(error)}",
                advice="What is recorded is whole in the run directory; the same command copies what is missing.",
            ) from error
        return copied

    def _put(self, file: LocalFile) -> dict[str, Any]:
        """Copy one file and compare what is there; what the list says of it."""
        target = f"{self._folder}/{file.name}"
        with pa.memory_map(str(file.path)) as source:
            size = source.size()
            stream = self._system.open_output_stream(target, compression=None)
            while piece := source.read_buffer(_PIECE_BYTES):
                if not piece.size:
                    break
                stream.write(piece)
            stream.close()  # an object appears only now, and not where an error came before
        if self._digest(target) != file.sha256:
            raise OSError(f"{file.name}: what was read back is not what was written")
        return {"bytes": size, "sha256": file.sha256}

    def _digest(self, target: str) -> str:
        whole = hashlib.sha256()
        with self._system.open_input_stream(target, compression=None) as stream:
            while piece := stream.read(_PIECE_BYTES):
                whole.update(piece)
        return whole.hexdigest()

    def _read_list(self) -> dict[str, Any] | None:
        from pyarrow import fs

        target = f"{self._folder}/{LIST_NAME}"
        if self._system.get_file_info(target).type == fs.FileType.NotFound:
            return None
        with self._system.open_input_stream(target, compression=None) as stream:
            try:
                document = json.loads(stream.read())
                return (
                    document if isinstance(document["run"], dict) and isinstance(document["files"], dict) else None
                )
            except (ValueError, KeyError, TypeError):
                raise OSError(f"{LIST_NAME} there is no list of a publication") from None

    def _write_list(self, *, is_whole: bool) -> None:
        document = {
            "format": 1,
            "run": self._identity,
            "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "is_whole": is_whole,
            "files": self._listed,
        }
        stream = self._system.open_output_stream(f"{self._folder}/{LIST_NAME}", compression=None)
        stream.write(json.dumps(document, indent=1).encode())
        stream.close()


@asynccontextmanager
async def kept_published(publication: Publication | None, say: Callable[[str], None]) -> AsyncIterator[None]:
    """While this is open, what is sealed is copied."""
    if publication is None:
        yield
        return
    task = asyncio.create_task(_keep_published(publication, say))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep_published(publication: Publication, say: Callable[[str], None]) -> None:
    """Copy what is sealed, again and again. A failure is only said: what is missing is copied the next time."""
    said = False
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        copying = asyncio.create_task(asyncio.to_thread(publication.copy_sealed))
        try:
            await asyncio.shield(copying)
            said = False
        except DiskFailed as error:
            if not said:
                say(f"{KEY}: {error}; it is tried again")
            said = True
        except asyncio.CancelledError:
            await asyncio.wait([copying])  # one thread at a time: the session's end goes on from here
            raise


def _sealed(run: RunDirectory) -> Iterator[LocalFile]:
    """The sealed attempts that count, in their order."""
    live = {f"attempts/{run.attempt_file(number).name}" for number in run.segments()}
    for name, entry in sorted(read_manifest(run).items()):
        if name.startswith("attempts/") and name not in live and not entry.gone:
            yield LocalFile(name, run.path / name, entry.sha256)


def _at_the_end(run: RunDirectory) -> Iterator[LocalFile]:
    generation = linked_generation(run)
    if generation is not None:
        path = run.path / run.results.readlink()
        yield LocalFile(run.results.name, path, file_digest(path))
    for path in (run.job, run.summary):
        if is_there(path):
            yield LocalFile(path.name, path, file_digest(path))


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
