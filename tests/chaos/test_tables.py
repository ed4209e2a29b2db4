"""A table or a job that changes between sessions: never mixed in silently, and what is harmless goes on."""

from __future__ import annotations

import os

import polars as pl
import pytest

from crun_batch import run
from crun_batch.errors import RequestsChanged, RunDamaged
from crun_batch.simulator import SimulatorProcess
from crun_batch.store.directory import RunDirectory

ROWS = [{"id": f"r{row}", "text": f"Is {row} even?", "note": "x"} for row in range(6)]
JOB = """
input: {{table: t.csv, id: id}}
endpoint: {{base_url: "{base_url}", api_key_env: TABLES_KEY}}
model: gpt-5.4
prompt: {{user: "{{{{ text }}}}"}}
params: {{max_output_tokens: 20}}
output: {{dir: "{folder}"}}
"""
ENVIRON = {"TABLES_KEY": "ak_sim_tables"}


@pytest.fixture(scope="module")
def gateway():
    with SimulatorProcess() as simulator:
        yield simulator


@pytest.fixture
def place(tmp_path, gateway):
    """A run that has finished; `again` runs it anew and says how many requests that took."""
    (tmp_path / "job.yaml").write_text(JOB.format(base_url=gateway.base_url, folder=tmp_path / "run"))
    write(tmp_path, ROWS)

    def again(**options):
        before = gateway.stats()["paths"].get("/api/v1/chat/completions", 0)
        ended = run(tmp_path / "job.yaml", environ=ENVIRON, **options)
        return gateway.stats()["paths"]["/api/v1/chat/completions"] - before, ended

    assert 6 == again()[0]
    return tmp_path, again


def write(folder, rows):
    pl.DataFrame(rows).write_csv(folder / "t.csv")


def another_prompt(folder):
    job = folder / "job.yaml"
    job.write_text(job.read_text().replace("{{ text }}", "{{ text }}!"))


def edited(row, **cells):
    return [{**one, **cells} if index == row else one for index, one in enumerate(ROWS)]


def test_one_cell_of_the_same_size_at_the_same_time_is_seen(place):
    """Exit 6 with the row and the column in the message; nothing is sent."""
    folder, again = place
    table = folder / "t.csv"
    before = table.stat()
    write(folder, edited(3, text="Is 9 even?"))
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (before.st_size, before.st_mtime_ns) == (table.stat().st_size, table.stat().st_mtime_ns)
    with pytest.raises(RequestsChanged) as caught:
        again()
    assert 6 == caught.value.exit_code
    for words in ("1 finished row", "row 3", "'text'", "- Is 3 even?", "+ Is 9 even?"):
        assert words in str(caught.value)


def test_redo_changed_asks_the_changed_row_again_and_no_other(place):
    folder, again = place
    write(folder, edited(3, text="Is 9 even?"))
    posts, ended = again(redo_changed=True)
    assert 1 == posts
    assert 6 == ended.results().collect().height
    assert 0 == again()[0]


@pytest.mark.parametrize("fewer", [{"limit": 2}, {"input": {"where": "id < 'r4'"}}, {"repeats": 1}])
def test_changed_units_that_a_session_did_not_look_at_are_seen_by_the_next(place, fewer):
    """Redone for some rows or repeats only, the others have answers to another request: told, then redone."""
    folder, again = place
    assert 6 == again(repeats=2)[0]
    another_prompt(folder)
    posts, _ = again(redo_changed=True, **{"repeats": 2, **fewer})
    left = 12 - posts
    assert left > 0 < posts
    with pytest.raises(RequestsChanged, match=f"{left} finished"):
        again(repeats=2)
    assert left == again(redo_changed=True, repeats=2)[0]
    assert 0 == again(repeats=2)[0]


def test_changed_units_that_a_pilot_did_not_ask_again_are_seen_by_the_next_session(place):
    folder, again = place
    another_prompt(folder)
    assert 2 == again(redo_changed=True, pilot=2)[0]
    with pytest.raises(RequestsChanged, match="4 finished"):
        again()
    assert 4 == again(redo_changed=True)[0]
    assert 0 == again()[0]


@pytest.mark.parametrize(
    ("what", "rows", "posts"),
    [
        ("the order", ROWS[::-1], 0),
        ("rows at the end", [*ROWS, {"id": "r6", "text": "Is 6 even?", "note": "x"}], 1),
        ("rows at the start", [{"id": "r6", "text": "Is 6 even?", "note": "x"}, *ROWS], 1),
        ("fewer rows", ROWS[:3], 0),
        ("a column that no prompt reads", edited(2, note="y"), 0),
    ],
)
def test_a_harmless_change_goes_on(place, what, rows, posts):
    folder, again = place
    write(folder, rows)
    assert posts == again()[0], what


@pytest.mark.parametrize(
    "change", ["model: gpt-5.4-mini", "params: {max_output_tokens: 21}", 'prompt: {user: "{{ text }}!"}']
)
def test_another_request_for_finished_rows_stops_with_a_diff(place, change):
    folder, again = place
    job = folder / "job.yaml"
    key = change.split(":")[0]
    lines = [change if line.startswith(f"{key}:") else line for line in job.read_text().splitlines()]
    job.write_text("\n".join(lines))
    with pytest.raises(RequestsChanged, match=r"6 finished rows.*\n--- job of the run"):
        again()


@pytest.mark.parametrize("place_of_flip", [0.3, 0.6])
def test_a_flipped_bit_before_whole_lines_is_damage_and_nothing_is_changed(place, place_of_flip):
    """Exit 6, and the journal is as it was; a torn end is cut and gone on with."""
    folder, again = place
    journal = RunDirectory(folder / "run")
    write(folder, [*ROWS, *({"id": f"s{row}", "text": f"Is {row} odd?", "note": "x"} for row in range(3))])
    path = journal.segment(journal.segments()[-1])
    again()
    path = journal.segment(journal.segments()[-1])
    whole = path.read_bytes()
    line = whole.splitlines(keepends=True)[0]
    data = bytearray(line * 3)
    data[int(len(line) * place_of_flip)] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(RunDamaged, match="line 1"):
        again()
    assert bytes(data) == path.read_bytes()
    path.write_bytes(whole + line[: len(line) // 2])
    assert 0 == again()[0]
