"""Rows and units are different things and words: a row of the table has a unit for each variant and repeat."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import run_kit
from hypothesis import given, settings
from hypothesis import strategies as st

import crun_batch
from crun_batch.console.progress import Progress
from crun_batch.console.runs_words import followed_line
from crun_batch.console.words import summary_lines, summary_text
from crun_batch.records import STATUSES
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.state.done import DoneMarks, rows_by_status

ORDER = (*STATUSES, "open")


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator(output_tokens_median=20, output_tokens_sigma=0) as process:
        yield process


@settings(deadline=None, max_examples=150)
@given(st.data(), st.integers(1, 5), st.integers(1, 12))
def test_a_row_has_the_worst_status_of_its_units(data: st.DataObject, per_row: int, rows: int) -> None:
    """Against a plain count of the selected rows and those that are finished; total is the sum of the others."""
    unit = st.tuples(st.sampled_from(ORDER), st.sampled_from(["", "server", "timeout"]))
    units = data.draw(st.lists(unit, min_size=rows * per_row, max_size=rows * per_row))
    selected = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    done = DoneMarks(rows * per_row)
    for slot, (status, kind) in enumerate(units):
        if status != "open":
            done.finish(slot, status, kind or None)
    table = SimpleNamespace(source_rows=rows, selected_rows=sum(selected), selected=pa.array(selected))
    workload: Any = SimpleNamespace(table=table, slots=SimpleNamespace(per_row=per_row))
    statuses = [status for status, _ in units]
    of_rows = [max(statuses[row * per_row : (row + 1) * per_row], key=ORDER.index) for row in range(rows)]
    worst = [one for one, is_selected in zip(of_rows, selected, strict=True) if is_selected or one != "open"]
    expected = {"total": len(worst), **{name: Counter(worst)[name] for name in ORDER}}
    assert expected == rows_by_status(workload, done, STATUSES)


@pytest.fixture(scope="module")
def swept(gateway: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> crun_batch.Run:
    """Five rows under two variants, twice each; one row is stopped at two tokens under one variant."""
    sweep = {
        "size": {"long": {"params": {"max_output_tokens": 300}}, "short": {"params": {"max_output_tokens": 1}}}
    }
    job = run_kit.job(gateway, tmp_path_factory.mktemp("swept"), sweep=sweep, repeats=2)
    return run_kit.run(job, run_kit.texts(5))


def test_a_summary_counts_rows_and_units(swept: crun_batch.Run) -> None:
    """Under one variant every answer is cut: no row is ok, half of the units are."""
    summary = swept.summary
    assert (5, 0, 5, 0) == tuple(summary["rows"][name] for name in ("total", "ok", "truncated", "open"))
    assert (20, 10, 10, 0) == tuple(summary["units"][name] for name in ("total", "ok", "truncated", "open"))
    assert 4 == summary["units_per_row"]
    assert summary["units_per_second"] == pytest.approx(4 * summary["rows_per_second"], abs=0.01)
    assert summary == {**swept.summary, **{name: crun_batch.status(swept)[name] for name in ("rows", "units")}}


def test_rows_that_earlier_sessions_finished_are_counted_as_their_units_are(
    gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """A session of fewer rows tells of the whole run, in both."""
    job = run_kit.job(gateway, tmp_path, repeats=2)
    run_kit.run(job, run_kit.texts(5))
    fewer = run_kit.run(job, run_kit.texts(5), limit=2)
    more = run_kit.run(job, run_kit.texts(9), limit=6).summary
    for summary, rows in ((fewer.summary, 5), (more, 6)):
        assert (rows, rows) == (summary["rows"]["total"], summary["rows"]["ok"])
        assert (2 * rows, 2 * rows) == (summary["units"]["total"], summary["units"]["ok"])


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ({"repeats": 2}, {}),
        ({"sweep": {"model": ["gpt-5.4", "gpt-5.4-mini"]}}, {"sweep": {"model": ["gpt-5.4"]}}),
    ],
)
def test_rows_stay_rows_where_a_job_asks_less_often_than_before(
    gateway: SimulatorProcess, tmp_path: Path, former: dict[str, Any], now: dict[str, Any]
) -> None:
    """Results of repeats and variants that are gone stay in the sums: they are units, and no further rows."""
    run_kit.run(run_kit.job(gateway, tmp_path, **former), run_kit.texts(5))
    summary = run_kit.run(run_kit.job(gateway, tmp_path, **now), run_kit.texts(6)).summary
    assert (6, 6, 11) == (summary["rows"]["total"], summary["rows"]["ok"], summary["units"]["total"])


def test_what_is_printed_calls_units_units(swept: crun_batch.Run) -> None:
    """The summary, the line of a log, the report, the list of runs."""
    text = summary_text(swept.summary)
    assert "\n  rows     5: 0 ok, 5 truncated\n  units    20, 4 for each row: 10 ok, 10 truncated\n" in text
    assert "10 units are not ok, --retry failed asks them again" in text
    assert "rows/s" not in text
    assert "20 of 20 units (100 %)" in followed_line(crun_batch.status(swept))
    report = crun_batch.report(swept.directory).text()
    assert "10 of 20 units are ok" in report
    assert "By how the unit ended" in report
    [listed] = crun_batch.runs(swept.directory)
    assert (5, 5, 5) == (listed["rows_total"], listed["rows_done"], listed["rows_failed"])


def test_where_a_row_has_one_unit_only_rows_are_spoken_of(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """Units and rows are the same figures, and the word unit is not heard."""
    done = run_kit.run(run_kit.job(gateway, tmp_path), run_kit.texts(3))
    assert done.summary["rows"] == done.summary["units"]
    said = summary_text(done.summary) + crun_batch.report(done.directory).text()
    assert "row" in said
    assert not re.search(r"\bunits?\b", said)


@pytest.mark.parametrize(("units_per_row", "noun"), [(1, "rows"), (6, "units")])
def test_a_display_says_what_it_counts(units_per_row: int, noun: str) -> None:
    """Of a sweep the bar counts units."""
    text = Progress(10, 5, rows_per_second=2.0, units_per_row=units_per_row).text()
    assert f"5 of 10 {noun} (50 %)" in text
    assert f"2.0 {noun}/s" in text


@pytest.mark.parametrize(
    ("status", "units_per_row", "says_so"),
    [
        ("running", 2, True),
        ("killed", 2, True),
        ("finished", 2, False),
        ("stopped", 2, False),
        ("running", 1, False),
    ],
)
def test_rows_that_are_older_than_the_units_beside_them_say_so(
    swept: crun_batch.Run, status: str, units_per_row: int, says_so: bool
) -> None:
    """A session counts rows of several units every few seconds; its journal tells units as of now."""
    told = {**swept.summary, "status": status, "units_per_row": units_per_row}
    [rows] = [phrase for name, phrase in summary_lines(told) if name == "rows"]
    assert says_so == rows.endswith(" (as last counted)")
