"""One way for every export: which rows, in which form, to a stream or a file that is whole or not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import TextIOBase
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.records import STATUSES
from crun_batch.store.chosen import AskedFormat, Chosen, Exported
from crun_batch.store.disk import opened_for_people
from crun_batch.store.export import Format, export

AnyFormat = Literal["csv", "jsonl", "parquet", "html", "openai-batch", "chat-jsonl", "openai-batch-requests"]
_OWN_FORM = ("openai-batch", "chat-jsonl", "openai-batch-requests")


class ExportOptions(Struct, frozen=True):
    """What is exported, and where the table is that prompts are rendered from."""

    where: str | None = None
    columns: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    table: object | None = None
    allow_paths: tuple[str | Path, ...] = ()

    def chosen(self, format: AnyFormat) -> Chosen:
        """Which rows and columns. Raises InputError for what does not fit the form, or is no status."""
        if self.columns and format in _OWN_FORM:
            raise InputError(f"{format} has a form of its own; columns are for csv, jsonl, parquet and html")
        wrong = [name for name in self.statuses if name not in STATUSES]
        if wrong:
            raise InputError(f"there is no status {wrong[0]!r}; there are {', '.join(STATUSES)}")
        statuses = self.statuses or (("ok",) if format == "chat-jsonl" else ())
        return Chosen(self.where, statuses, self.columns)


def export_run(path: Path, format: AnyFormat, target: BinaryIO | str | Path, options: ExportOptions) -> Exported:
    """Write what is chosen. Raises InputError, RunDamaged, DiskFailed; a file is then as it was before."""
    known = get_args(AnyFormat)
    if format not in known:
        raise InputError(Mistake(f"there is no {format!r}; there are {', '.join(known)}", key="format"))
    if isinstance(target, TextIOBase):
        raise InputError(Mistake("is a stream of text, not a binary one (mode 'wb')", key="target"))
    chosen = options.chosen(format)
    if isinstance(target, str | Path):
        with opened_for_people(Path(target)) as stream:
            return _written(path, format, stream, chosen, options)
    if format == "parquet" and not target.seekable():
        raise InputError("parquet is written to a file; name one")
    return _written(path, format, target, chosen, options)


def _written(path: Path, format: AnyFormat, stream: BinaryIO, chosen: Chosen, options: ExportOptions) -> Exported:
    if format in get_args(AskedFormat):
        from crun_batch.reporting.asked_export import export_asked  # renders: other exports need no templates

        asked: Any = format
        return export_asked(path, asked, stream, chosen, table=options.table, allow_paths=options.allow_paths)
    plain: Format = format  # type: ignore[assignment]
    return Exported(export(path, plain, stream, chosen), 0)


def format_of(path: Path) -> AnyFormat:
    """The form that a file's ending says. Raises InputError for an ending that says none."""
    form = _ENDINGS.get(path.suffix.lower())
    if form is None:
        raise InputError(f"{path}: its ending says no form; these do: {', '.join(_ENDINGS)}")
    return form


_ENDINGS: Mapping[str, AnyFormat] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".html": "html",
}


def names_in(written: Sequence[str] | str | None) -> tuple[str, ...]:
    """Names as a sequence, or as a text with commas between them."""
    parts = written.split(",") if isinstance(written, str) else written or ()
    return tuple(part.strip() for part in parts if part.strip())
