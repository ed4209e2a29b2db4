"""Every CSV that the tool writes is harmless: in a spreadsheet nothing runs, in a terminal nothing steers."""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_kit
from architecture import Tree
from hypothesis import example, given
from hypothesis import strategies as st

import crun_batch
from crun_batch.store.cells import FORMULA_STARTS, guarded, unguarded

CONTROLS = [*map(chr, (0, 7, 8, 27, 127, 0x9B)), "\u202e", "\u2066"]
STEERING = {chr(code) for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
HOSTILE = f'=cmd("{"".join(CONTROLS)}")'
ESCAPED = '\'=cmd("\\x00\\x07\\x08\\x1b\\x7f\\x9b\\u202e\\u2066")'


@given(st.text())
@example(HOSTILE)
@example("\t=1")
@example("\x1b=1")
def test_a_guarded_text_neither_runs_nor_steers_and_is_found_again(text: str) -> None:
    """Whatever it holds; without controls, a reader gets back what was written."""
    shown = guarded(text)
    assert not shown.startswith(FORMULA_STARTS)
    assert not set(shown) & STEERING - set("\t\n\r")
    if shown.removeprefix("'") == text and not text.startswith("'"):
        assert text == unguarded(shown)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> crun_batch.Run:
    """Two variants that answer a hostile table differently, each row annotated in hostile words."""
    answers = {"output_tokens_median": 9, "output_tokens_sigma": 1}
    with run_kit.simulator(**answers) as gateway:
        sweep = {"size": {"a": {"params": {"max_output_tokens": 5}}, "b": {"params": {"max_output_tokens": 2}}}}
        folder = tmp_path_factory.mktemp("csv")
        output = {"dir": str(folder / "run"), "columns": ["text", "@note"]}
        job = run_kit.job(gateway, folder, sweep=sweep, output=output)
        table = pl.DataFrame({"id": [HOSTILE, "b"], "text": ["=1+1", HOSTILE], "@note": [HOSTILE, "x"]})
        done = run_kit.run(job, table)
    crun_batch.annotate(done.directory, HOSTILE, label=HOSTILE, comment=HOSTILE, annotator=HOSTILE)
    return done


def _export(run: crun_batch.Run, path: Path) -> None:
    run.export(path)


def _disagreements(run: crun_batch.Run, path: Path) -> None:
    crun_batch.compare(run.directory, label="output_text").export_disagreements(path)


def _labels(run: crun_batch.Run, path: Path) -> None:
    crun_batch.compare(run.directory, label="output_text").export_labels(path)


def _annotations(run: crun_batch.Run, path: Path) -> None:
    crun_batch.export_annotations(run.directory, path)


WRITERS: list[tuple[Callable[[crun_batch.Run, Path], None], int]] = [
    (_export, 3),
    (_disagreements, 2),
    (_labels, 1),
    (_annotations, 4),
]
"""Each command that writes a CSV, and how many hostile cells stand in it at least."""


@pytest.mark.parametrize(("write", "least"), WRITERS)
def test_no_csv_that_the_tool_writes_runs_or_steers(
    run: crun_batch.Run, tmp_path: Path, write: Any, least: int
) -> None:
    """In every column, names of columns included; what is harmless is as it was."""
    write(run, tmp_path / "written.csv")
    text = (tmp_path / "written.csv").read_bytes().decode()
    cells = [cell for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
    assert [] == [cell for cell in cells if set(cell) & STEERING - set("\n")]
    assert [] == [cell for cell in cells if cell.startswith(FORMULA_STARTS) and not _is_number(cell)]
    assert least <= cells.count(ESCAPED)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_annotations_in_a_csv_are_the_same_words_again(run: crun_batch.Run, tmp_path: Path) -> None:
    """Control characters are written out in it; the file adds nothing to the run that it is from."""
    file = tmp_path / "people.csv"
    crun_batch.annotate(run.directory, "b", label=HOSTILE, comment="=1\x1b", annotator="ann")
    crun_batch.export_annotations(run.directory, file)
    lines = list(csv.reader(io.StringIO(file.read_bytes().decode(), newline="")))
    with file.open("w", newline="") as stream:  # an id with control characters is no id of this table any more
        csv.writer(stream).writerows([lines[0], *(line for line in lines if line[0] == "b")])
    assert 0 == crun_batch.import_annotations(run.directory, file)


def test_a_csv_is_written_only_by_a_module_that_guards_it() -> None:
    """Whoever makes a CSV writer imports the one guard."""
    tree = Tree()
    writers = {
        name
        for name, module in tree.trees.items()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("csv.writer", "csv.DictWriter")
    }
    frames = {
        name
        for name, module in tree.trees.items()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and node.attr in ("write_csv", "sink_csv", "to_csv")
    }
    guarding = {one.importer for one in tree.imports if one.imported == "crun_batch.store.cells"}
    assert {"crun_batch.store.export", "crun_batch.console.disagreements"} == writers
    assert set() == frames | writers - guarding
