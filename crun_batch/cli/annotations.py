"""The commands that take what people say of rows from other tools, and give it to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import crun_batch
from crun_batch.cli import options
from crun_batch.cli.output import out

annotate = typer.Typer(
    help="Take what people say of rows from a file, or write it to one.\n\nannotate import RUN FILE takes labels, "
    "verdicts and comments, annotate export RUN FILE writes them; each has its own --help.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)
_File = Annotated[Path, typer.Argument(metavar="FILE", help="Its ending says the form: .csv, .jsonl, .parquet.")]


@annotate.command("import")
def import_(
    run: options.RunPlace,
    file: _File,
    annotator: Annotated[
        str | None, typer.Option("--annotator", metavar="NAME", help="Who says so, where the file does not.")
    ] = None,
    simulate: options.SimulatedRun = False,
) -> int:
    """Take annotations from a file.

    It has the id and one of label, verdict (pass, fail) and comment; with variant and repeat they are about that
    answer, else about the row. Every mistake is told, and then nothing is taken; the same file again adds nothing.
    `compare --gold annotations` uses the labels.
    """
    added = crun_batch.import_annotations(run, file, annotator=annotator, simulate=simulate)
    out(f"{added:,} new annotations")
    return 0


@annotate.command("export")
def export(run: options.RunPlace, file: _File, simulate: options.SimulatedRun = False) -> int:
    """Write all annotations to a file."""
    out(f"{crun_batch.export_annotations(run, file, simulate=simulate):,} annotations to {file}")
    return 0
