"""The batch lane in virtual time: seeds of faults and kills, and what must hold of each of them.

`python -m tests.simulation.batch_seeds 10000` plays more of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from simulation.batch_laws import broken_laws
from simulation.batches import FORMS, BatchScenario, drawn, play
from simulation.play import Kill

FEW = (0, 1, 3, 4, 5, 8, 9, 20022)
"""Each form in each lane; the last is killed when all rows are done and the last batch is not said to be over."""

MOST_OPERATIONS = 400
"""Of the disk: more than a session has of two rows."""


def test_the_few_have_each_form_in_each_lane() -> None:
    """What is left for `make long` is more of the same."""
    ways = {(drawn(seed).form, drawn(seed).lane) for seed in FEW}
    assert {(form, lane) for form in FORMS for lane in ("batch", "batch-then-live")} == ways


@pytest.mark.parametrize(
    "seeds", [FEW, pytest.param(tuple(range(10, 60)), marks=pytest.mark.long)], ids=["a few", "more"]
)
def test_no_seed_breaks_a_law_of_the_batch_lane(seeds: tuple[int, ...], tmp_path: Path) -> None:
    """No file becomes two batches, no row two results, no paid line unread or paid twice, and the bounds hold."""
    for seed in seeds:
        scenario = drawn(seed)
        played = play(scenario, tmp_path / str(seed))
        assert [] == [f"seed {seed}: {law}" for law in broken_laws(scenario, played)]


def short(form: str, at: int, **keys: Any) -> BatchScenario:
    """Two rows in one batch, killed after an operation of the disk."""
    scenario = BatchScenario(
        seed=at,
        form=form,
        rows=2,
        max_requests=2,
        faults={},
        batch_seconds=60.0,
        list_lag_seconds=0.0,
        enqueued_tokens=None,
        kills=(Kill(at, "after", power_cut=False),),
        dies_in_calls=(0,),
        turns=1,
        segment_bytes=2**26,
    )
    return structs.replace(scenario, **keys)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "operations",
    [range(56, 64), pytest.param(range(20, MOST_OPERATIONS), marks=pytest.mark.long)],
    ids=["some", "all"],
)
def test_a_session_that_finds_all_answers_recorded_ends(form: str, operations: range, tmp_path: Path) -> None:
    """It waited without end for batches, of which there were none, nor a row that needed one."""
    for at in operations:
        scenario = short(form, at)
        played = play(scenario, tmp_path / str(at))
        assert [] == [f"operation {at}: {law}" for law in broken_laws(scenario, played)]
        if not played.kills:
            break


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "operations",
    [range(54, 61), pytest.param(range(20, MOST_OPERATIONS), marks=pytest.mark.long)],
    ids=["some", "all"],
)
def test_what_is_on_the_disk_is_read_though_the_gateway_has_it_no_more(
    form: str, operations: range, tmp_path: Path
) -> None:
    """Killed at operations of its disk, and gone on with when the gateway has no more what batches had brought."""
    kept = 0
    for at in operations:
        faults = {"create_lost": 1.0} if at % 2 else {"line_errors": 0.4}
        kill = Kill(at, "after", power_cut=bool(at % 3))
        scenario = short(form, at, faults=faults, kills=(kill,), is_left_long=True)
        played = play(scenario, tmp_path / str(at))
        assert [] == [f"operation {at}: {law}" for law in broken_laws(scenario, played)]
        kept += len(played.world.kept)
        if not played.kills:
            break
    assert kept > 0
