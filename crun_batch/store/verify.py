"""Every promise about a run's files, checked; what is found is named, and nothing is repaired.

First the files (there, as long as the manifest says, whole by their checksums), then what they say together
(each attempt once, each unit once, costs add up, the published results are the recorded finals). Reads only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow.parquet as pq
from msgspec import Struct
from pyarrow import ArrowException

from crun_batch.errors import CrunBatchError
from crun_batch.paths import is_folder, is_link, is_there
from crun_batch.store.directory import LOCK_NAME, RunDirectory, read_json
from crun_batch.store.disk import temporary
from crun_batch.store.events import HeadEvent
from crun_batch.store.manifest import ManifestEntry, read_manifest
from crun_batch.store.recover import replay, scan_segment
from crun_batch.store.results import THROUGH, generation_file, generations, linked_generation
from crun_batch.store.schema import SEQUENCE, RunSchema, quoted
from crun_batch.store.seal import file_digest
from crun_batch.store.side_files import side_files, side_names
from crun_batch.store.views import attempt_totals, connect, parquet_source, run_schema

Severity = Literal["info", "warning", "error"]
_SHOWN = 3
_Question = tuple[str, str, str]
"""(what is checked, the finding with the row's values in it, the SQL that finds none in a sound run)."""


class Finding(Struct, frozen=True):
    """One thing found. error: damage, or a broken promise. warning: not expected. info: what a crash leaves."""

    file: str
    """Path within the run directory, or the name of what was checked: costs, units, attempts."""
    what: str
    severity: Severity


def verify(path: Path, *, data: bool = False) -> list[Finding]:
    """All findings, files first. `data`: also every byte of every file against its sha256.

    On a run that is being written, what changes during the check may show up as a finding.
    """
    run = RunDirectory(path, to_verify=True)
    foreign = [Finding(name, what, "error") for name, what in run.foreign_entries()]
    if foreign:
        return foreign  # what a link leads to is not this run's: neither read nor judged
    findings = [
        *_job_files(run),
        *_manifest(run, data=data),
        *_journal(run),
        *_link(run),
        *_strangers(run),
    ]
    if not any(finding.severity == "error" for finding in findings):
        findings += _contents(run)
    return findings


def _job_files(run: RunDirectory) -> Iterator[Finding]:
    for path, needed in ((run.job, True), (run.summary, False)):
        if is_there(path) or needed:
            yield from _said(run, path, lambda path=path: read_json(path))  # type: ignore[misc]
    if run.has_job:
        yield from _said(run, run.job, lambda: run_schema(run))
        for path, read in side_files(run):
            yield from _said(run, path, read)


def _said(run: RunDirectory, path: Path, read: Callable[[], object]) -> Iterator[Finding]:
    """What a reader complains about, as a finding."""
    try:
        read()
    except (OSError, ValueError, CrunBatchError, ArrowException) as error:
        yield Finding(_name(run, path), str(error), "error")


def _manifest(run: RunDirectory, *, data: bool) -> Iterator[Finding]:
    if not is_there(run.manifest):
        return
    scan = scan_segment(run.manifest)
    if scan.torn_bytes:
        yield Finding(_name(run, run.manifest), f"{scan.torn_bytes} bytes at its end are no whole line", "warning")
    try:
        entries = read_manifest(run)
    except (CrunBatchError, msgspec.DecodeError) as error:
        yield Finding(_name(run, run.manifest), str(error), "error")
        return
    live = _live_files(run)
    for entry in entries.values():
        if not entry.gone and entry.name not in live:
            yield from _listed(run, entry, data=data)
    for path in _kept_files(run):
        name = _name(run, path)
        if name not in entries and name not in live:
            severity: Severity = "error" if path.parent != run.journal else "warning"
            yield Finding(name, "is not in the manifest", severity)


def _listed(run: RunDirectory, entry: ManifestEntry, *, data: bool) -> Iterator[Finding]:
    path = run.path / entry.name
    if not is_there(path):
        yield Finding(entry.name, "is missing", "error")
        return
    digest = file_digest(path) if data else None
    if entry.replaces is not None and digest in (None, entry.replaces):
        return  # a crash between the manifest's line and the rename leaves the former content
    size = path.stat().st_size
    if size != entry.bytes:
        yield Finding(entry.name, f"has {size} bytes; {entry.bytes} were written", "error")
    elif digest not in (None, entry.sha256):
        yield Finding(entry.name, "its bytes are not those that were written (sha256)", "error")
    elif path.suffix == ".parquet":
        yield from _said(run, path, lambda: _rows_are(path, entry.rows))


def _rows_are(path: Path, rows: int) -> None:
    found = pq.read_metadata(path).num_rows
    if found != rows:
        raise ValueError(f"has {found} rows; {rows} were written")


def _journal(run: RunDirectory) -> Iterator[Finding]:
    segments = run.segments()
    if not segments:
        has_begun = is_there(run.manifest) or run.has_summary or _kept_files(run)
        yield Finding("journal", "there is no segment", "error" if has_begun else "info")
    for number in segments:
        path = run.segment(number)
        name = _name(run, path)
        scan = scan_segment(path)
        if scan.first_bad_line is not None:
            yield Finding(name, f"line {scan.first_bad_line}: its checksum does not fit", "error")
            continue
        if scan.torn_bytes:
            yield _torn(run, number, scan.torn_bytes, newest=number == segments[-1])
        yield from _said(run, path, lambda path=path, number=number: _replayed(path, number))  # type: ignore[misc]


def _torn(run: RunDirectory, number: int, torn_bytes: int, *, newest: bool) -> Finding:
    path = run.segment(number)
    what = f"{torn_bytes} bytes at its end are no whole line"
    if not newest:
        return Finding(_name(run, path), what + ", in a segment that was closed", "error")
    with path.open("rb") as file:
        file.seek(-1, 2)
        ended = file.read() == b"\n"
    if ended:
        return Finding(_name(run, path), what + "; its checksum does not fit: a torn write, or damage", "warning")
    return Finding(_name(run, path), what + ": the write that a crash broke off; the next start cuts it", "info")


def _replayed(path: Path, number: int) -> None:
    events = replay(path)
    head = next(events, None)
    if not isinstance(head, HeadEvent) or head.segment != number:
        raise ValueError(f"line 1 is not the head of segment {number}")
    for _ in events:
        pass


def _link(run: RunDirectory) -> Iterator[Finding]:
    name = _name(run, run.results)
    linked = linked_generation(run)
    if linked is None and not is_there(run.results) and not _was_published(run):
        yield Finding(
            name, "is not there yet: the first session to end in order, or the next start, makes it", "info"
        )
        return
    if linked is None:
        yield Finding(name, "is missing, or no link to a generation", "error")
        return
    if not is_there(run.results):
        yield Finding(name, f"points to {run.results.readlink()}, which is missing", "error")
        return
    listed = _named_generations(run)
    if listed and linked != max(listed):
        severity: Severity = "warning" if linked in listed else "error"
        yield Finding(name, f"points to generation {linked}; the newest is {max(listed)}", severity)
    yield from _said(run, run.results, lambda: pq.read_metadata(run.results))


def _was_published(run: RunDirectory) -> bool:
    """Whether any generation was ever put in its place, by what there is and what the manifest says."""
    try:
        listed = read_manifest(run)
    except (CrunBatchError, msgspec.DecodeError):
        return True  # nobody knows
    folder = _name(run, run.journal)
    return bool(_named_generations(run)) or any(name.startswith(f"{folder}/results-") for name in listed)


def _named_generations(run: RunDirectory) -> list[int]:
    """The generations that are there under their final names."""
    return [number for number in generations(run) if is_there(generation_file(run, number))]


def _strangers(run: RunDirectory) -> Iterator[Finding]:
    """Files that are nobody's."""
    try:
        listed = set(read_manifest(run))
    except (CrunBatchError, msgspec.DecodeError):
        return
    known = {
        _name(run, path)
        for path in (run.job, run.summary, run.results, run.manifest, run.reserve, run.sync_failed)
    }
    known |= {
        LOCK_NAME,
        "report.html",
        *side_names(run),
        *(_name(run, run.segment(number)) for number in run.segments()),
    }
    known |= _live_files(run) | listed | {_name(run, path) for path in _kept_files(run)}
    for path in sorted(run.path.rglob("*")):
        name = _name(run, path)
        if is_link(path) and path not in (run.results, temporary(run.results)):
            yield Finding(name, "is a link; a run directory holds files of its own", "error")
            continue
        if (is_folder(path) and not is_link(path)) or name in known:
            continue
        if path.suffix == ".tmp":
            yield Finding(name, "left over from a write that did not finish", "info")
        else:
            yield Finding(name, "is no file of ours", "warning")


def _kept_files(run: RunDirectory) -> list[Path]:
    folders = ((run.attempts, "*.parquet"), (run.parts, "*.parquet"), (run.journal, "results-*.parquet"))
    singles = [run.scores] if is_there(run.scores) else []
    return singles + [path for folder, pattern in folders for path in sorted(folder.glob(pattern))]


def _live_files(run: RunDirectory) -> set[str]:
    """Sealed files whose segment is still there: they do not count yet."""
    numbers = run.segments()
    return {_name(run, name(number)) for number in numbers for name in (run.part, run.attempt_file)}


def _contents(run: RunDirectory) -> Iterator[Finding]:
    import duckdb

    schema = run_schema(run)
    try:
        with connect(run.path) as connection:
            for name, what, sql in _questions(run, schema):
                rows = connection.execute(sql).fetchall()
                for row in rows[:_SHOWN]:
                    yield Finding(name, what.format(*row), "error")
                if len(rows) > _SHOWN:
                    yield Finding(name, f"... and {len(rows) - _SHOWN} or more like that", "error")
    except duckdb.Error as error:
        yield Finding("journal", f"the files cannot be read together: {error}", "error")
        return
    yield from _summary(run)


def _questions(run: RunDirectory, schema: RunSchema) -> list[_Question]:
    """What finds nothing in a sound run."""
    keys = ", ".join(map(quoted, schema.unit_columns))
    unit = f"concat_ws(', ', {keys})"
    return [
        (
            "attempts",
            "attempt {} is recorded {} times",
            "select serial, count(*) from attempts group by serial having count(*) > 1 order by 1 limit 100",
        ),
        (
            "units",
            "unit ({}) has {} results",
            f"select {unit}, count(*) from results group by {keys} having count(*) > 1 order by all limit 100",
        ),
        *(_questions_of_published(run, schema) if is_there(run.results) else ()),
        (
            "costs",
            "unit ({}): its result says {} USD and {} credits, its attempts add up to {} and {}",
            f"with sums as (select {keys}, sum(a.cost_usd) as usd, sum(a.cost_credits) as credits "
            f"from attempts a join results using ({keys}) "
            f"where purpose <> 'judge' and attempt <= attempt_count group by {keys}) "  # later: it is asked again
            f"select {unit}, r.cost_usd, r.cost_credits, usd, credits from results r join sums using ({keys}) "
            f"where r.cost_usd is distinct from usd or r.cost_credits is distinct from credits "
            f"order by all limit 100",
        ),
    ]


def _questions_of_published(run: RunDirectory, schema: RunSchema) -> list[_Question]:
    keys = ", ".join(map(quoted, schema.unit_columns))
    unit = f"concat_ws(', ', {keys})"
    through = int((pq.read_metadata(run.results).metadata or {}).get(THROUGH, b"-1"))
    published = f"select {keys}, status, request_hash from {parquet_source([run.results])}"
    same_unit = " and ".join(f"last.{quoted(key)} = final.{quoted(key)}" for key in schema.unit_columns)
    recorded = (
        f"select {keys}, status, request_hash from _finals final where {SEQUENCE} <= {through} and not exists "
        f"(select 1 from _finals last where last._supersedes and {same_unit} "
        f"and last.{SEQUENCE} <= {through} and final.{SEQUENCE} < last.{SEQUENCE})"
    )
    return [
        (
            "results.parquet",
            "unit ({}) with status {} is not what was recorded",
            f"select {unit}, status from (({published}) except all ({recorded})) order by all limit 100",
        ),
        (
            "results.parquet",
            "unit ({}) with status {} was recorded and is not in it",
            f"select {unit}, status from (({recorded}) except all ({published})) order by all limit 100",
        ),
    ]


def _summary(run: RunDirectory) -> Iterator[Finding]:
    """A summary of a run that has ended says what the attempts say."""
    if not run.has_summary:
        return
    summary = read_json(run.summary)
    said = summary.get("attempt_totals")
    if said is None or not summary.get("ended"):
        return
    totals = attempt_totals(run.path)
    for name, value in totals.document().items():
        if said.get(name) not in (value, getattr(totals, name)):  # earlier versions told amounts in pico
            yield Finding("summary.json", f"{name} is {said.get(name)}; the attempts add up to {value}", "error")


def _name(run: RunDirectory, path: Path) -> str:
    return str(path.relative_to(run.path))
