"""What `input.table` names, wherever it lies: files here, files elsewhere, rows of a database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.copies import CopiedPart, CopyFolder, RemoteFile, called_by
from crun_batch.load.table.files import (
    KEY,
    HowWritten,
    find_files,
    open_file,
    open_files,
    over_all_files,
    refuse_needless_sheet,
)
from crun_batch.load.table.source import Part, Source, Stamp, source_of, stamp_of

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+]*)://")
DATABASES = ("sqlite", "postgresql", "postgres")


def open_source(table: str | Sequence[str], base_dir: Path, how: HowWritten, id_column: str | None) -> Source:
    """The source over all that is named, in its order. Raises InputError, DiskFailed.

    Local files are read where they are; what lies elsewhere is copied, or read once, before this returns.
    """
    named = [table] if isinstance(table, str) else list(table)
    schemes = [match[1].lower() if (match := _SCHEME.match(one)) else None for one in named]
    if all(scheme is None for scheme in schemes):
        return open_files(table, base_dir, how)
    wrong = [_unknown(scheme) for scheme in schemes if scheme not in (None, *DATABASES, *_REMOTE)]
    if wrong:
        raise InputError(list(dict.fromkeys(wrong)))
    databases = [one for one, scheme in zip(named, schemes, strict=True) if scheme in DATABASES]
    if databases and len(named) > 1:
        says = f"`{databases[0].partition('?')[0]}` stands in a list; rows of a database are read alone"
        raise InputError(Mistake(says, key=KEY))
    if databases:
        return source_of([_open_database(databases[0], base_dir, id_column)], [None])
    return _with_copies(zip(schemes, named, strict=True), base_dir, how)


def _open_database(address: str, base_dir: Path, id_column: str | None) -> Part:
    """Few tables are of a database: its reader is loaded here."""
    if address.startswith("sqlite"):
        from crun_batch.load.table.sqlite_reader import database_table, open_sqlite

        return open_sqlite(database_table(address, base_dir, id_column))
    from crun_batch.load.table.postgres import open_postgres, postgres_query

    return open_postgres(postgres_query(address, id_column))


def _with_copies(named: zip[tuple[str | None, str]], base_dir: Path, how: HowWritten) -> Source:
    folder = CopyFolder()
    parts: list[Part] = []
    stamps: list[Stamp | None] = []
    taken: set[str] = set()
    for address, path, is_copy in _located(named, base_dir, folder):
        if address in taken:
            raise InputError(Mistake("is given twice; each row would run twice", file=address, key=KEY))
        taken.add(address)
        stamps.append(stamp_of(path))
        try:
            part = open_file(path, how)
        except InputError as error:
            before = sum(part.rows for part in parts)
            told = [over_all_files(one, before) for one in error.mistakes]
            raise called_by(address, InputError(told)) if is_copy else InputError(told) from None
        parts.append(CopiedPart(part, address, folder) if is_copy else part)
    refuse_needless_sheet([Path(one) for one in taken], how)
    return source_of(parts, stamps)


def _located(
    named: Iterable[tuple[str | None, str]], base_dir: Path, folder: CopyFolder
) -> Iterator[tuple[str, Path, bool]]:
    """Each file in its order: what it is called, where it is to be read, whether that is a copy."""
    for scheme, one in named:
        if scheme is None:
            yield from ((str(path), path, False) for path in find_files([one], base_dir))
        else:
            yield from ((address, path, True) for address, path in folder.copies(_REMOTE[scheme](one)))


def _https(address: str) -> list[RemoteFile]:
    from crun_batch.load.table.https_file import https_file

    return [https_file(address)]


def _bucket(address: str) -> list[RemoteFile]:
    from crun_batch.load.table.bucket import bucket_files

    return bucket_files(address)


def _hub(address: str) -> list[RemoteFile]:
    from crun_batch.load.table.hub import hub_files

    return hub_files(address)


_REMOTE: Mapping[str, Callable[[str], list[RemoteFile]]] = {
    "https": _https,
    "s3": _bucket,
    "gs": _bucket,
    "az": _bucket,
    "hf": _hub,
}
"""Scheme -> the files that an address of it means."""


def _unknown(scheme: str | None) -> Mistake:
    known = ", ".join(f"{one}://" for one in (*_REMOTE, "sqlite", "postgresql"))
    advice = "without TLS anybody on the way could change the rows" if scheme == "http" else f"read are {known}"
    return Mistake(f"`{scheme}://` is not read: {advice}", key=KEY)
