"""Laws of large tables: what is read of them in parts, by key or beside the rest is what a whole reading gives."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_kit import ENVIRON, RecordingWire, job, simulator

import crun_batch
from crun_batch.errors import InputError
from crun_batch.load.folders import Folders
from crun_batch.load.table import files as table_files
from crun_batch.load.table import ids as table_ids
from crun_batch.load.table import selection as table_selection
from crun_batch.load.table import table as table_module
from crun_batch.load.table.ids import places_of
from crun_batch.load.table.table import Table, open_table
from crun_batch.vocabulary.counters import token_counter

ROWS = 6_000


def opened(path: Path, **keys: Any) -> Table:
    told = dict.fromkeys(("query", "where", "id", "limit", "sample", "csv", "sheet"))
    return open_table(SimpleNamespace(**{**told, "table": str(path), **keys}), folders=Folders(path.parent))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows in row groups of several sizes, and as CSV."""
    path = tmp_path_factory.mktemp("large")
    table = pa.table({"n": range(ROWS), "text": [f"row {number}" for number in range(ROWS)]})
    for size in (50, 1500, ROWS):
        pq.write_table(table, path / f"{size}.parquet", row_group_size=size)
    pl.DataFrame(table).write_csv(path / "rows.csv")
    return path


@given(
    name=st.sampled_from(["50.parquet", "1500.parquet", "6000.parquet", "rows.csv"]),
    where=st.sampled_from([None, "n % 3 = 1", "n > 5700"]),
    limit=st.none() | st.integers(1, ROWS),
    count=st.integers(1, 900),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=40)
def test_a_spread_sample_is_seeded_exact_and_within_the_selection(
    folder: Path, name: str, where: str | None, limit: int | None, count: int, seed: int
) -> None:
    """So many of the selected rows, each once, in order, with their own values, the same for the same seed."""
    try:
        table = opened(folder / name, where=where, limit=limit)
    except InputError:
        return
    selected = [row.position for batch in table.rows(()) for row in batch]
    sample = table.spread_rows(count, seed, ["n", "text"])
    positions = [row.position for row in sample]
    assert min(count, len(selected)) == len(positions)
    assert sorted(set(positions)) == positions
    assert set(positions) <= set(selected)
    assert [(place, f"row {place}") for place in positions] == [tuple(row.values.values()) for row in sample]
    assert sample == table.spread_rows(count, seed, ["n", "text"])


@given(seed=st.integers(0, 1000), block=st.sampled_from([1, 8, 2048]))
@settings(deadline=None, max_examples=25)
def test_a_spread_sample_knows_a_sorted_table(seed: int, block: int) -> None:
    """Of a table sorted by length it has rows from every hundredth part, so that its mean is that of the table."""
    selection = table_selection.Selection(50_000, 50_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_selection, "PLACE_ROWS", block)
        chosen = pl.Series(selection.spread(1_000, seed).mask).arg_true()
    assert dict.fromkeys(range(100), 10) == dict(Counter((chosen // 500).to_list()))
    assert abs(chosen.mean() / 25_000 - 1) < 0.01


def test_seeds_differ(folder: Path) -> None:
    table = opened(folder / "1500.parquet")
    assert table.spread_rows(100, 1, ["n"]) != table.spread_rows(100, 2, ["n"])


@given(wanted=st.sets(st.integers(0, 99)), start=st.integers(0, 100), end=st.integers(0, 100))
@settings(deadline=None, max_examples=200)
def test_spans_hold_every_wanted_row(wanted: set[int], start: int, end: int) -> None:
    """Disjoint, in order, within the bounds asked for; a block without a wanted row is in none."""
    selection = table_selection.select_all(100).among(pa.array([place in wanted for place in range(100)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_selection, "SPAN_ROWS", 4)
        spans = selection.spans(start, end)
    covered = [place for begin, stop in spans for place in range(begin, stop)]
    assert sorted(set(covered)) == covered
    assert set(covered) <= set(range(start, end))
    assert {place for place in wanted if start <= place < end} <= set(covered)
    blocks = {(place - start) // 4 for place in wanted if start <= place < end}
    assert blocks == {(place - start) // 4 for place in covered}


KINDS = {
    "text": pa.array(["a", None, "ü\n", ""] * 100),
    "large": pa.array(["a", None, "b", "c"] * 100, pa.large_string()),
    "small": pa.array([1, None, -3, 4] * 100, pa.int8()),
    "unsigned": pa.array([1, None, 2**64 - 1, 4] * 100, pa.uint64()),
    "share": pa.array([0.5, None, -1e300, float("inf")] * 100),
    "good": pa.array([True, None, False, True] * 100),
    "day": pa.array([1, None, -3, 20_000] * 100, pa.int32()).cast(pa.date32()),
    "moment": pa.array([1, None, -3, 10**18] * 100, pa.int64()).cast(pa.timestamp("ns", "UTC")),
    "category": pa.array(["a", None, "b", "a"] * 100).dictionary_encode(),
    "list": pa.array([[1], None, [], [2, None]] * 100),
    "amount": pa.array([1, None, 3, 4] * 100, pa.int64()).cast(pa.decimal128(38, 2)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", ["snappy", "zstd", "lz4", "none"])
def test_few_rows_of_a_row_group_read_like_all(kind: str, compression: str, tmp_path: Path) -> None:
    """The same values of the same types, whichever way they are read."""
    pq.write_table(pa.table({"value": KINDS[kind]}), tmp_path / "a.parquet", compression=compression)
    table = opened(tmp_path / "a.parquet")
    everything = [row for batch in table.rows(["value"]) for row in batch]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_selection, "SPAN_ROWS", 4)
        few = [
            row
            for batch in table.rows(["value"], wanted=pa.array([i in (6, 7, 201) for i in range(400)]))
            for row in batch
        ]
    assert [everything[place] for place in (6, 7, 201)] == few


def test_finished_row_groups_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a table of which the end is open, only the last row groups are touched."""
    read: list[int] = []
    whole = table_files._row_group

    def watched(file: Any, number: int, columns: Any) -> Any:
        read.append(number)
        return whole(file, number, columns)

    monkeypatch.setattr(table_files, "_row_group", watched)
    wanted = pa.array([place >= ROWS - 80 for place in range(ROWS)])
    rows = [row.position for batch in opened(folder / "50.parquet").rows(["n"], wanted=wanted) for row in batch]
    assert list(range(ROWS - 80, ROWS)) == rows
    assert [118, 119] == read


@given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 30), min_size=1, max_size=60),
    as_text=st.booleans(),
    few_at_once=st.sampled_from([(0, 3), (0, 1 << 24), (1 << 16, 1 << 24)]),
)
@settings(deadline=None, max_examples=90)
def test_duplicates_are_found_whatever_the_passes(
    ids: list[int], as_text: bool, few_at_once: tuple[int, int]
) -> None:
    """Every id that several rows have is named, the first five in order; where there is none, the table opens.

    Few ids are compared as they are, more by their keys, very many of them in passes.
    """
    kept = [f"id {each}" for each in ids] if as_text else ids
    twice = [each for each, count in Counter(kept).items() if count > 1][:5]
    spec = SimpleNamespace(
        table=None, query=None, where=None, id="id", limit=None, sample=None, csv=None, sheet=None
    )
    with pytest.MonkeyPatch.context() as patch:
        few_rows, at_once = few_at_once
        patch.setattr(table_ids, "FEW_ROWS", few_rows)
        patch.setattr(table_ids, "KEYS_AT_ONCE", at_once)
        try:
            open_table(spec, folders=Folders(Path()), frame=pa.table({"id": kept}))
            found = []
        except InputError as error:
            found = list(error.mistakes)
    assert [kept.index(each) for each in twice] == [mistake.row for mistake in found]
    assert all(repr(each) in mistake.message for each, mistake in zip(twice, found, strict=True))


@given(
    ids=st.lists(st.integers(-50, 50), unique=True, min_size=1, max_size=40),
    sought=st.lists(st.integers(-60, 60), max_size=60),
    as_text=st.booleans(),
    sought_as_text=st.booleans(),
    few_at_once=st.sampled_from([(1 << 16, 1 << 24), (0, 1 << 24), (0, 0)]),
)
@settings(deadline=None, max_examples=80)
def test_finished_ids_find_their_rows(
    ids: list[int], sought: list[int], as_text: bool, sought_as_text: bool, few_at_once: tuple[int, int]
) -> None:
    """Each where its id stands, numbers and their texts alike; no id that is not there is found, in any order.

    Few ids are found as they are, more by their keys, very many of them by a join.
    """
    frame = pa.table({"id": pa.array(ids).cast(pa.string()) if as_text else ids})
    finished = pa.table({"id": pa.array(sought, pa.int64()), "what": pa.array(range(len(sought)), pa.int64())})
    if sought_as_text:
        finished = finished.set_column(0, "id", finished.column(0).cast(pa.string()))
    spec = SimpleNamespace(
        table=None, query=None, where=None, id="id", limit=None, sample=None, csv=None, sheet=None
    )
    table = open_table(spec, folders=Folders(Path()), frame=frame)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_ids, "FEW_ROWS", few_at_once[0])
        patch.setattr(table_module, "KEYS_AT_ONCE", few_at_once[1])
        batches = list(table.positions_of(finished.to_reader(7)))
    found = sorted((row["position"], row["what"]) for batch in batches for row in batch.to_pylist())
    assert sorted((ids.index(each), what) for what, each in enumerate(sought) if each in ids) == found


def test_texts_with_one_key_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is a hash: an id that is not in the table is not taken for one that has its hash."""
    real = table_ids.key_of

    def colliding(ids: pa.Array, seed: int = 0) -> pl.Series:
        keys = real(ids, seed)
        return keys if seed else pl.zeros(len(keys), dtype=pl.UInt64, eager=True)

    monkeypatch.setattr(table_ids, "key_of", colliding)
    table = pa.table({"position": [0], "id": ["a"]})
    monkeypatch.setattr(table_ids, "FEW_ROWS", 0)
    places = places_of(table.to_batches, 1, pa.string())
    sought = pa.table({"id": ["b", "a", "c"], "what": [1, 2, 3]})
    assert [{"position": 0, "what": 2}] == pa.Table.from_batches(places.find(sought.to_reader())).to_pylist()


def test_a_table_that_changes_beside_the_run_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint is made in a thread; what goes wrong there ends the start, and no request has gone."""

    def changed(self: Table) -> str:
        raise InputError("the table was changed while it was in use")

    monkeypatch.setattr(Table, "fingerprint", changed)
    wire = RecordingWire()
    frame = pl.DataFrame({"id": [1, 2], "text": ["a", "b"]})
    with simulator() as at, pytest.raises(InputError, match="was changed"):
        crun_batch.run(job(at, tmp_path), table=frame, wire=wire, environ=ENVIRON)
    assert [] == wire.sent


def test_counting_leaves_the_package_of_the_vocabularies_alone() -> None:
    """Its import takes a second; the compiled part of it counts the same, and both can be used side by side."""
    pytest.importorskip("bpe_openai")
    program = (
        "import sys\n"
        "from crun_batch.vocabulary.counters import token_counter\n"
        "count = token_counter('gpt-5').count('Zwölf Äpfel, 3 pears')\n"
        "assert 'bpe_openai' not in sys.modules\n"
        "import bpe_openai\n"
        "assert count == len(bpe_openai.get_encoding('o200k_base').encode('Zwölf Äpfel, 3 pears'))\n"
        "print(count)\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert token_counter("gpt-5").count("Zwölf Äpfel, 3 pears") == int(told.stdout)
