"""What a notebook does with a `Run`: compare, export by a file's name, pandas, a page."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from measurements.made_up_run import make_run
from page_run_kit import Asker

import crun_batch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> crun_batch.Run:
    path = tmp_path_factory.mktemp("made") / "run"
    make_run(path, 60)
    return crun_batch.open_run(path)


@pytest.mark.parametrize(
    ("name", "read"), [("a.csv", pl.read_csv), ("a.jsonl", pl.read_ndjson), ("a.parquet", pl.read_parquet)]
)
def test_a_files_name_says_its_form(run: crun_batch.Run, tmp_path: Path, name: str, read) -> None:
    assert 60 == run.export(tmp_path / name) == read(tmp_path / name).height
    with pytest.raises(crun_batch.InputError, match=r"these do: \.csv, \.jsonl"):
        run.export(tmp_path / "a.docx")


def test_a_run_compares_its_variants_and_becomes_a_pandas_frame(run: crun_batch.Run) -> None:
    assert run.compare(gold="gold").to_dict() == crun_batch.compare(run, gold="gold").to_dict()
    found = run.compare(gold="gold")
    shown = repr(found).splitlines()  # what a cell shows that ends with it
    assert found.text(100).splitlines() == shown[1:]
    assert [] == [line for width in (80, 100, 120) for line in found.text(width).splitlines() if len(line) > width]
    frame = run.to_pandas()
    assert (60, run.results().collect_schema().names()) == (len(frame), list(frame.columns))


def test_a_run_shows_its_page_until_it_is_stopped(run: crun_batch.Run) -> None:
    page = run.view()
    assert "label-reviews" == Asker(page).get("facts")["name"]
    assert repr(page).startswith("<View http://127.0.0.1:") and "token" not in repr(page)
    assert ".url opens it" in repr(page)
    page.stop()
    with pytest.raises(OSError):
        Asker(page).get("facts")
