"""Columns that output.columns names only after results were finished come from the same table, or stay null."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_kit

import crun_batch
from crun_batch.errors import DiskFailed
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.store import filling

VALUES: dict[str, list[Any]] = {
    "text": ["plain", "ünï\n", None, ""],
    "whole": [1, -(2**40), None, 0],
    "real": [0.1, float("inf"), None, -0.0],
    "yes": [True, False, None, True],
    "day": [date(2026, 1, 2), date(1, 1, 1), None, date(9999, 12, 31)],
    "moment": [datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), None, None, datetime(1970, 1, 1, tzinfo=UTC)],
    "clock": [time(1, 2, 3, 4), None, time(0), time(23, 59)],
    "span": [timedelta(microseconds=-5), None, timedelta(0), timedelta(days=9)],
    "money": [Decimal("1.10"), Decimal("-2.00"), None, Decimal("0.01")],
    "raw": [b"\x00\xff", None, b"", b"x"],
    "list": [[1, None], [], None, [3]],
    "nested": [{"a": 1, "b": ["x"]}, None, {"a": None, "b": []}, {"a": 2, "b": None}],
}


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator() as process:
        yield process


def frame() -> pl.DataFrame:
    return pl.DataFrame({"id": ["a", "b", "c", "d"], "text_asked": ["1", "2", "3", "4"], **VALUES})


def job(gateway: SimulatorProcess, folder: Path, columns: Any = None) -> crun_batch.Job:
    output = {"dir": str(folder / "run"), "columns": columns or ["text_asked"]}
    return run_kit.job(gateway, folder, prompt={"user": "{{ text_asked }}"}, output=output)


def assert_filled(done: crun_batch.Run, names: list[str], rows: int = 4) -> None:
    """As by every reader: the live view, the published file, SQL."""
    expected = frame().head(rows).select("id", *names).sort("id")
    live = done.results().select("id", *names).sort("id").collect()
    published = pl.read_parquet(done.directory / "results.parquet").select("id", *names).sort("id")
    by_sql = pl.DataFrame(pl.from_arrow(done.sql(f'select id, "{names[0]}" from results order by id')))
    for found in (live, published):
        assert expected.to_dicts() == found.to_dicts()
    assert expected.select("id", names[0]).to_dicts() == by_sql.select("id", names[0]).to_dicts()
    assert [] == done.verify(data=True)


@pytest.mark.parametrize("first", [2, 4], ids=["rows are left", "nothing is left"])
def test_values_of_every_type_come_from_the_table(gateway: SimulatorProcess, tmp_path: Path, first: int) -> None:
    """What was finished before and what is finished now look alike, and what was filled is said; nothing is sent
    for it."""
    said: list[str] = []
    asked = gateway.ledger()["count"]
    run_kit.run(job(gateway, tmp_path), frame(), limit=first)
    names = list(VALUES)
    done = run_kit.run(job(gateway, tmp_path, names), frame(), say=said.append)
    assert (0, 4) == (done.exit_code, gateway.ledger()["count"] - asked)
    assert_filled(done, names)
    told = f"output.columns: {', '.join(names)} filled from the table in {first:,} results of earlier sessions"
    assert [told] == [sentence for sentence in said if sentence.startswith("output.columns")]
    said.clear()
    run_kit.run(job(gateway, tmp_path, names), frame(), say=said.append)
    assert [] == [sentence for sentence in said if sentence.startswith("output.columns")]


def test_a_renamed_column_and_units_of_several_variants_are_filled(
    gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """By its new name, in every variant and repeat."""
    columns = {"flag": "yes"}
    sweep: dict[str, Any] = {"sweep": {"params.temperature": [0, 1]}, "repeats": 2}
    first, later = (
        run_kit.job(
            gateway,
            tmp_path,
            prompt={"user": "{{ text_asked }}"},
            output={"dir": str(tmp_path / "run"), "columns": names},
            **sweep,
        )
        for names in (["text_asked"], columns)
    )
    run_kit.run(first, frame())
    done = run_kit.run(later, frame())
    found = done.results().select("id", "flag").collect()
    assert 16 == found.height
    assert {("a", True), ("b", False), ("c", None), ("d", True)} == set(found.rows())


def test_values_of_another_table_are_not_taken(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """One cell that no prompt reads is another: the column stays null, and that is said once."""
    said: list[str] = []
    run_kit.run(job(gateway, tmp_path), frame(), limit=3)
    other = frame().with_columns(whole=pl.lit(7))
    done = run_kit.run(job(gateway, tmp_path, ["whole"]), other, say=said.append)
    assert [None, None, None, 7] == done.results().sort("id").collect()["whole"].to_list()
    told = "output.columns: whole came after 3 results were finished, which are null there: the table has changed"
    assert 1 == len([sentence for sentence in said if sentence.startswith(told)])
    said.clear()
    run_kit.run(job(gateway, tmp_path, ["whole"]), other, say=said.append)
    assert [] == [sentence for sentence in said if sentence.startswith("output.columns")]


def numbers(offset: int) -> pl.DataFrame:
    return pl.DataFrame(
        {"id": [f"r{i}" for i in range(12)], "text_asked": ["1"] * 12, "n": range(offset, offset + 12)}
    )


def test_shards_are_filled_each_and_merged(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """The merged run has the values of all shards."""
    for columns in (None, ["n"]):
        places = [
            run_kit.run(job(gateway, tmp_path, columns), numbers(0), shard=f"{number}/2").directory
            for number in (1, 2)
        ]
    merged = crun_batch.merge(*places, output_dir=tmp_path / "all")
    assert set(numbers(0).select("id", "n").rows()) == set(merged.results().select("id", "n").collect().rows())
    assert [] == merged.verify(data=True)


def test_a_merged_run_knows_every_table_that_a_shard_has_read(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """A shard that began with another table is not filled from this one after the merge either."""
    spec = job(gateway, tmp_path)
    places = [
        run_kit.run(spec, table, shard="1/2", limit=limit).directory
        for table, limit in ((numbers(0), 2), (numbers(5), None))
    ]
    places = [places[0], run_kit.run(spec, numbers(5), shard="2/2").directory]
    crun_batch.merge(*places, output_dir=tmp_path / "all")
    said: list[str] = []
    done = run_kit.run(job(gateway, tmp_path, ["n"]), numbers(5), output_dir=tmp_path / "all", say=said.append)
    assert [None] * 12 == done.results().collect()["n"].to_list()
    assert any("the table has changed since" in sentence for sentence in said)


def test_what_could_not_be_filled_is_filled_by_the_next_session(
    gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails in between loses nothing, and does not make it forget."""
    run_kit.run(job(gateway, tmp_path), frame(), limit=2)
    with monkeypatch.context() as patched:
        patched.setattr(filling, "fill_columns", _fails)
        with pytest.raises(DiskFailed):
            run_kit.run(job(gateway, tmp_path, ["whole"]), frame(), limit=3)
    done = run_kit.run(job(gateway, tmp_path, ["whole"]), frame())
    assert_filled(done, ["whole"])


def _fails(*_: Any) -> int:
    raise DiskFailed("no room")
