"""A table that grows: one cell makes a column of numbers one of texts, and back. The run goes on, and is read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_kit

import crun_batch
from crun_batch.errors import RunDirectoryError
from crun_batch.simulator.process import SimulatorProcess

NUMBERS, TEXTS = [1, 2, 3], ["1", "2", "three"]
FORMER: dict[str, tuple[list[Any], list[Any], list[Any]]] = {
    "numbers, then texts": (NUMBERS, ["1", "2", "3", "four"], ["1", "2", "3", "four"]),
    "texts, then numbers": (TEXTS, [1, 2, 3, 4], ["1", "2", "three", "4"]),
    "whole numbers, then fractions": (NUMBERS, [1.0, 2.0, 3.0, 4.5], [1.0, 2.0, 3.0, 4.5]),
    "fractions, then whole numbers": ([0.5, 1.5, 2.5], [1, 2, 3, 4], [0.5, 1.5, 2.5, 4.0]),
    "yes and no, then texts": ([True, False, None], ["yes", "no", "maybe", "no"], ["true", "false", None, "no"]),
    "texts, then yes and no": (TEXTS, [True, False, True, False], ["1", "2", "three", "false"]),
    "fractions, then texts": ([0.5, 1.5, 2.5], ["a", "b", "c", "d"], ["0.5", "1.5", "2.5", "d"]),
    "days, and days": (
        [date(2026, 1, 2)] * 3,
        [date(2026, 3, 4)] * 4,
        [date(2026, 1, 2)] * 3 + [date(2026, 3, 4)],
    ),
}
"""The values of three rows, then of four, and what the results hold: what was recorded stays what it was."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator() as process:
        yield process


def job(gateway: SimulatorProcess, folder: Path, columns: Any = ("value",), **keys: Any) -> crun_batch.Job:
    return run_kit.job(
        gateway,
        folder,
        prompt={"user": "Say {{ asked }}."},
        output={"dir": str(folder / "run"), "columns": list(columns)},
        score=[{"name": "said", "grader": "contains", "expected": "a"}],
        **keys,
    )


def frame(ids: list[Any], **values: list[Any]) -> pl.DataFrame:
    return pl.DataFrame({"id": ids, "asked": list("abcd")[: len(ids)], **values})


def read_by_all(done: crun_batch.Run) -> pl.DataFrame:
    """The results as every reader gives them, which is the same, in the order of their ids."""
    live = done.results().sort("id").collect()
    published = pl.read_parquet(done.directory / "results.parquet").sort("id")
    by_sql = pl.DataFrame(pl.from_arrow(done.sql("select * from results order by id")))
    assert live.to_dicts() == published.to_dicts() == by_sql.to_dicts()
    assert live.height <= done.attempts().collect().height
    return live


def bytes_of(run: Path) -> dict[Path, bytes]:
    """All but the lock, which tells who held it last."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in files}


def use_all(done: crun_batch.Run, folder: Path) -> None:
    """Every command that reads a run does so."""
    assert [] == done.verify(data=True)
    done.report()
    done.compare()
    done.export("csv", folder / "out.csv")
    crun_batch.status(done.directory)


def test_a_carried_column_takes_the_type_that_holds_both(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """What is recorded stays, what comes is added, asking again replaces rows of both."""
    spec = job(gateway, tmp_path, FORMER)
    before, now, expected = ({name: case[place] for name, case in FORMER.items()} for place in range(3))
    run_kit.run(spec, frame(["a", "b", "c"], **before))
    done = run_kit.run(spec, frame(["a", "b", "c", "d"], **now))
    assert 0 == done.exit_code, done.stop_reason
    assert expected == read_by_all(done).select(list(FORMER)).to_dict(as_series=False)
    use_all(done, tmp_path)
    again = run_kit.run(spec, frame(["a", "b", "c", "d"], **now), retry="all")
    anew = {
        name: pl.Series([str(one).lower() if isinstance(one, bool) else one for one in values], strict=False)
        .cast(pl.Series(expected[name], strict=False).dtype)
        .to_list()
        for name, values in now.items()
    }
    assert anew == read_by_all(again).select(list(FORMER)).to_dict(as_series=False)
    use_all(again, tmp_path)


@pytest.mark.parametrize(("first", "then"), [([1, 2, 3], ["1", "2", "3", "d"]), (["1", "2", "c"], [1, 2, 3, 4])])
def test_ids_that_were_numbers_and_are_texts_name_the_same_rows(
    gateway: SimulatorProcess, tmp_path: Path, first: list[Any], then: list[Any]
) -> None:
    """Nothing is sent again, and prices, scores, retries and late columns find the rows of both."""
    run_kit.run(job(gateway, tmp_path), frame(first, value=NUMBERS))
    asked = gateway.ledger()["count"]
    done = run_kit.run(job(gateway, tmp_path), frame(then, value=[1, 2, 3, 4]))
    new = [str(one) for one in then if str(one) not in map(str, first)]
    assert len(new) == gateway.ledger()["count"] - asked
    assert sorted([*map(str, first), *new]) == read_by_all(done)["id"].to_list()
    use_all(done, tmp_path)
    assert [str(one) for one in first] == [str(crun_batch.show(done.directory, one)["id"]) for one in first]
    dear = {
        "credits_per_usd": 200,
        "models": {"sim": {"currency": "usd", "input_per_mtok": 5, "output_per_mtok": 9}},
    }
    corrected = run_kit.run(
        job(gateway, tmp_path, prices=dear), frame(then, value=[1, 2, 3, 4]), retry="all", correct_prices=True
    )
    assert 0 == corrected.exit_code, corrected.stop_reason
    use_all(corrected, tmp_path)


def test_a_column_of_no_common_type_is_refused_by_name(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """Times and nested values have no text that a table's text is: another run directory has room for both."""
    run_kit.run(job(gateway, tmp_path), frame(["a", "b", "c"], value=[date(2026, 1, 2)] * 3))
    before = bytes_of(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=r"the column value of .* would change its type"):
        run_kit.run(job(gateway, tmp_path), frame(["a", "b", "c", "d"], value=["soon"] * 4))
    assert before == bytes_of(tmp_path / "run")
