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


def job(gateway: SimulatorProcess, folder: Path, **keys: Any) -> crun_batch.Job:
    return run_kit.job(
        gateway,
        folder,
        prompt={"user": "Say {{ asked }}."},
        output={"dir": str(folder / "run"), "columns": ["value"]},
        score=[{"name": "said", "grader": "contains", "expected": "a"}],
        **keys,
    )


def frame(ids: list[Any], values: list[Any]) -> pl.DataFrame:
    return pl.DataFrame({"id": ids, "asked": list("abcd")[: len(ids)], "value": values})


def read_by_all(done: crun_batch.Run, name: str) -> list[Any]:
    """The column's values as every reader gives them, which is the same."""
    names = list(dict.fromkeys(["id", name, "request_hash"]))
    live = done.results().select(names).collect()
    published = pl.read_parquet(done.directory / "results.parquet").select(names)
    by_sql = pl.DataFrame(pl.from_arrow(done.sql(f"select {', '.join(names)} from results")))
    attempts = done.attempts().select("id").collect()
    assert live.height == published.height == by_sql.height <= attempts.height
    ordered = [found.sort("id").to_dicts() for found in (live, published, by_sql)]
    assert ordered[0] == ordered[1] == ordered[2]
    return [row[name] for row in ordered[0]]


def use_all(done: crun_batch.Run, folder: Path) -> None:
    """Every command that reads a run does so."""
    assert [] == done.verify(data=True)
    done.report()
    done.compare()
    done.export("csv", folder / "out.csv")
    crun_batch.status(done.directory)


@pytest.mark.parametrize("case", FORMER)
def test_a_carried_column_takes_the_type_that_holds_both(
    gateway: SimulatorProcess, tmp_path: Path, case: str
) -> None:
    """What is recorded stays, what comes is added, asking again replaces rows of both."""
    before, now, expected = FORMER[case]
    run_kit.run(job(gateway, tmp_path), frame(["a", "b", "c"], before))
    done = run_kit.run(job(gateway, tmp_path), frame(["a", "b", "c", "d"], now))
    assert 0 == done.exit_code, done.stop_reason
    assert expected == read_by_all(done, "value")
    use_all(done, tmp_path)
    again = run_kit.run(job(gateway, tmp_path), frame(["a", "b", "c", "d"], now), retry="all")
    kind = pl.Series(expected, strict=False).dtype
    anew = [str(value).lower() if isinstance(value, bool) else value for value in now]
    assert pl.Series(anew, strict=False).cast(kind).to_list() == read_by_all(again, "value")
    use_all(again, tmp_path)


@pytest.mark.parametrize(("first", "then"), [([1, 2, 3], ["1", "2", "3", "d"]), (["1", "2", "c"], [1, 2, 3, 4])])
def test_ids_that_were_numbers_and_are_texts_name_the_same_rows(
    gateway: SimulatorProcess, tmp_path: Path, first: list[Any], then: list[Any]
) -> None:
    """Nothing is sent again, and prices, scores, retries and late columns find the rows of both."""
    before = run_kit.run(job(gateway, tmp_path), frame(first, NUMBERS))
    asked = gateway.ledger()["count"]
    done = run_kit.run(job(gateway, tmp_path), frame(then, [1, 2, 3, 4]))
    new = [str(one) for one in then if str(one) not in map(str, first)]
    assert len(new) == gateway.ledger()["count"] - asked
    assert sorted([*map(str, first), *new]) == read_by_all(done, "id")
    use_all(done, tmp_path)
    assert before.results().collect()["output_text"].to_list()[:2] == [
        crun_batch.show(done.directory, one)["results"][0]["output_text"] for one in first[:2]
    ]
    dear = {
        "credits_per_usd": 200,
        "models": {"sim": {"currency": "usd", "input_per_mtok": 5, "output_per_mtok": 9}},
    }
    corrected = run_kit.run(
        job(gateway, tmp_path, prices=dear), frame(then, [1, 2, 3, 4]), retry="all", correct_prices=True
    )
    assert 0 == corrected.exit_code, corrected.stop_reason
    use_all(corrected, tmp_path)


def test_a_column_of_no_common_type_is_refused_by_name(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """Times and nested values have no text that a table's text is: another run directory has room for both."""
    run_kit.run(job(gateway, tmp_path), frame(["a", "b", "c"], [date(2026, 1, 2)] * 3))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match=r"the column value of .* would change its type"):
        run_kit.run(job(gateway, tmp_path), frame(["a", "b", "c", "d"], ["soon"] * 4))
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
