"""Columns of every type on their way into the results: SQL, frames and exports read them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from run_kit import ENVIRON, job, simulator

import crun_batch
from crun_batch.errors import InputError
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.store import views
from crun_batch.store.durations import as_counts, selection
from crun_batch.store.schema import quoted

MOMENT = datetime(2026, 11, 29, 1, 2, 3, 4, tzinfo=UTC)
HOUR, TICK = timedelta(hours=1, microseconds=250), timedelta(seconds=-3)

COLUMNS: dict[str, tuple[pa.DataType, Any]] = {
    "took": (pa.duration("us"), HOUR),
    'took "ms"': (pa.duration("ms"), timedelta(milliseconds=1500)),
    "took_s": (pa.duration("s"), TICK),
    "took_ns": (pa.duration("ns"), HOUR),
    "laps": (pa.list_(pa.duration("us")), [HOUR, None]),
    "lap": (pa.struct([("best", pa.duration("ms"))]), {"best": TICK}),
    "at": (pa.time64("us"), time(1, 2, 3, 4)),
    "at_s": (pa.time32("s"), time(1, 2, 3)),
    "day": (pa.date32(), date(2026, 11, 29)),
    "moment": (pa.timestamp("us", "UTC"), MOMENT),
    "moment_s": (pa.timestamp("s"), datetime(2026, 11, 29)),
    "price": (pa.decimal128(20, 4), Decimal("1.5000")),
    "bytes": (pa.binary(), b"\x00x"),
    "hash": (pa.binary(2), b"ab"),
    "share": (pa.float16(), 0.5),
    "many": (pa.uint64(), 2**64 - 1),
    "kind": (pa.dictionary(pa.int8(), pa.string()), "a"),
    "pairs": (pa.map_(pa.string(), pa.int32()), [("a", 1)]),
    "nothing": (pa.null(), None),
    "moment_there": (pa.timestamp("us", "+05:30"), MOMENT),
    "moments_there": (pa.list_(pa.timestamp("us", "-03:00")), [MOMENT, None]),
    "narrow": (pa.decimal256(20, 4), Decimal("1.5000")),
    "wide": (pa.decimal256(76, 12), Decimal("0.000000000001")),
    "view": (pa.list_view(pa.int32()), [1, None]),
    "empty": (pa.struct([]), {}),
    "empties": (pa.list_(pa.struct([])), [{}, None]),
    "nothings": (pa.list_(pa.null()), [None, None]),
    "nothing_inside": (pa.list_(pa.struct([("a", pa.null()), ("b", pa.int8())])), [{"a": None, "b": 1}]),
    ".": (pa.int64(), 1),
    ".price": (pa.int64(), 2),
    "[0]": (pa.int64(), 3),
}
AS_COUNTS = {"laps": [3_600_000_250, None], "lap": {"best": -3000}}
"""What SQL shows of durations inside others: the counts in the column's unit."""
MICROSECONDS = round(MOMENT.timestamp() * 1e6)
SHOWN = {
    "moment": "epoch_us(moment)",
    "moment_there": "epoch_us(moment_there)",
    "moments_there": "epoch_us(moments_there[1])",
    "pairs": "pairs['a']",
}
TEXTS: dict[str, Any] = {"wide": "0.000000000001", "empty": "{}", "empties": ["{}", None]}
EXPECTED = {
    "moment": MICROSECONDS,
    "moment_there": MICROSECONDS,
    "moments_there": MICROSECONDS,
    "pairs": 1,
    **TEXTS,
}
"""What Python's own values of it would want another library for, or another form."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two rows, the second of nulls, carried with all their columns."""
    columns = {name: pa.array([value, None], kind) for name, (kind, value) in COLUMNS.items()}
    table = pa.table({"id": ["a", "b"], **columns})
    with simulator() as at:
        keys = {"output": {"dir": str(tmp_path_factory.mktemp("run") / "run"), "columns": "all"}}
        spec = job(at, tmp_path_factory.mktemp("job"), prompt={"user": "{{ id }}"}, **keys)
        done = crun_batch.run(spec, table=table, environ=ENVIRON, handle_signals=False)
    assert 0 == done.exit_code, done.stop_reason
    return done


@pytest.mark.parametrize("name", COLUMNS)
def test_sql_and_frames_give_each_column_back(name: str, run: crun_batch.Run) -> None:
    """The whole table at once and the column alone; of a null a null."""
    expected = AS_COUNTS.get(name, COLUMNS[name][1])
    assert 2 == run.sql("select * from results").num_rows
    told = views.connect(run.directory).execute(f"select {SHOWN.get(name, quoted(name))} from results order by id")
    assert [(EXPECTED.get(name, expected),), (None,)] == told.fetchall()
    held = run.results().sort("id").select(name).collect().to_series().to_list()
    if name not in ("pairs", "many"):
        assert [TEXTS.get(name, COLUMNS[name][1]), None] == held


def test_what_is_read_from_arrow_and_from_parquet_is_one_type(run: crun_batch.Run) -> None:
    """Live rows and sealed ones stand in one view, whichever of them there are."""
    live = as_counts(pa.table({"d": pa.array([HOUR], pa.duration("us"))}))
    assert pa.int64() == live.schema.field("d").type
    assert '* replace (to_microseconds("d") as "d")' == selection(pa.schema([("d", pa.duration("us"))]))
    assert "*" == selection(pa.schema([("d", pa.int64())]))
    summed = run.sql("select sum(epoch(took)) as seconds from results where took > interval 1 minute").to_pylist()
    assert [{"seconds": 3600.00025}] == summed


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_type_is_exported(form: str, run: crun_batch.Run, tmp_path: Path) -> None:
    assert 2 == run.export(form, tmp_path / f"out.{form}")
    assert (tmp_path / f"out.{form}").stat().st_size


@pytest.mark.parametrize("name", COLUMNS)
def test_polars_pandas_and_duckdb_read_each_column_of_the_file(name: str, run: crun_batch.Run) -> None:
    """What is published needs none of our readers."""
    path = Path(run.directory) / "results.parquet"
    present = 0 if name == "nothing" else 1
    assert present == pl.read_parquet(path, columns=[name]).to_series().count()
    assert present == pd.read_parquet(path, columns=[name])[name].count()
    assert [(present,)] == duckdb.sql(f"select count({quoted(name)}) from '{path}'").fetchall()


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with simulator() as at:
        yield at


@pytest.mark.parametrize(
    ("name", "columns"), [("*", {"id": "id", "b": "*"}), ("^id.*$", {"b": "^id.*$"}), ("", ["id", "b"])]
)
def test_a_column_whose_name_readers_take_for_none_is_refused(
    name: str, columns: Any, gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """Before anything is sent; what the advice says goes."""
    table = pa.table({"id": ["a", "b"], "b" if not name else "c": ["c", "d"], name: ["c", "d"]})

    def answered(asked: Any) -> crun_batch.Run:
        keys = {"output": {"dir": str(tmp_path / "run"), "columns": asked}}
        spec = job(gateway, tmp_path, prompt={"user": "{{ id }}"}, **keys)
        return crun_batch.run(spec, table=table, environ=ENVIRON, handle_signals=False)

    with pytest.raises(
        InputError, match=r"cannot be read from the results again; (give it another|list the others)"
    ):
        answered("all")
    assert ["c", "d"] == answered(columns).results().sort("id").collect()["b"].to_list()


@pytest.mark.parametrize("name", ["*", "^id.*$"])
def test_an_id_whose_name_readers_take_for_none_is_refused(
    name: str, gateway: SimulatorProcess, tmp_path: Path
) -> None:
    spec = job(gateway, tmp_path, input={"id": name}, prompt={"user": "{{ id }}"})
    with pytest.raises(InputError, match=r"input.id: .*; rename it in the table"):
        crun_batch.run(spec, table=pa.table({"id": ["a"], name: ["c"]}), environ=ENVIRON, handle_signals=False)
