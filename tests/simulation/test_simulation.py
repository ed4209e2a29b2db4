"""Run + kills + resumes = one uninterrupted run, and the gateway's ledger agrees: a slice of the seeds."""

from __future__ import annotations

import asyncio

import polars as pl
import pytest

from crun_batch.api.run_handle import Run

from .gateway import Faults
from .laws import broken_laws
from .loop import Stuck, VirtualLoop, run_virtual
from .play import Kill, Scenario, Stage, drawn, play
from .seeds import play_seeds

DAY_US = 86_400_000_000
CALM = Scenario(
    seed=1,
    rows=12,
    concurrency=4,
    segment_bytes=2**26,
    faults=Faults(1),
    gateway_concurrency=None,
    kills=(),
    max_cost_credits=None,
    clock_jumps=(),
)


def scenario(**changes):
    return Scenario(**{name: changes.get(name, getattr(CALM, name)) for name in Scenario.__struct_fields__})


@pytest.mark.parametrize("first", range(0, 12, 6))
def test_kills_and_resumes_equal_one_uninterrupted_run(first):
    """Results, attempts, costs, files; whatever the faults and wherever the kills."""
    said = []
    tally = play_seeds(range(first, first + 6), say=said.append)
    assert [] == said
    assert 6 == tally.seeds


@pytest.mark.parametrize("seed", [23, 32, 187, 348, 695, 6827])
def test_seeds_that_broke_a_law_once_keep_all(tmp_path, seed):
    """Found by the models of lost pages and failed syncs, and mended since."""
    assert [] == broken_laws(drawn(seed), tmp_path)


def test_what_a_kill_left_in_flight_is_held_under_the_budget_at_once(tmp_path):
    """The holds of the suspects count before the first request of the next session, not only in the one after."""
    kills = (Kill(22, "after", False), Kill(33, "after", False))
    poor = scenario(rows=30, concurrency=16, max_cost_credits="6", kills=kills)
    assert [] == broken_laws(poor, tmp_path)


@pytest.mark.parametrize("at", range(25, 45, 2))
def test_a_failure_that_was_recorded_is_not_asked_again(tmp_path, at):
    """Killed between any two disk operations: a refused row is asked once, since its refusal was written down."""
    kills = (Kill(at, "after", False),)
    refused = scenario(rows=3, concurrency=1, faults=Faults(3, {"content_filter": 1.0}), kills=kills)
    stage = play(refused, tmp_path / "run", kills=kills)
    assert ["refused"] * 3 == [row["status"] for row in stage.results]
    known = [row["row"] for row in stage.attempts if row["error_kind"] == "content_filter"]
    assert [0, 1, 2] == sorted(known)


@pytest.mark.parametrize("when", ["full", "sync", "short"])
@pytest.mark.parametrize("at", [20, 31, 47])
def test_a_disk_that_fails_loses_no_reply(tmp_path, when, at):
    """No room, failed syncs, short writes from any moment on: exit 7, or nothing; no reply in flight is lost."""
    starved = scenario(rows=20, faults=Faults(2, {"500": 0.2}), kills=(Kill(at, when, False),))
    stage = play(starved, tmp_path / "run", kills=starved.kills)
    assert [*([7] if when != "short" else []), 0] == stage.played.exit_codes[: 1 + (when != "short")]
    assert [] == [row for row in stage.attempts if row["error_kind"] == "unknown_outcome"]
    assert [] == broken_laws(starved, tmp_path)


def test_what_a_kill_left_unpublished_is_published_at_the_next_start(tmp_path):
    """results.parquet has the rows of the killed session before the next one sends anything."""
    kills = (Kill(60, "after", False),)
    stage = Stage(scenario(), tmp_path / "run")
    assert None is stage.session(kills[0])
    recorded = Run(tmp_path / "run", {}).results().collect().height
    stage.session(Kill(45, "after", False))
    assert 0 < recorded <= pl.read_parquet(tmp_path / "run" / "results.parquet").height


def test_a_clock_that_jumps_a_day_changes_no_schedule(tmp_path):
    """The same requests at the same moments, whatever the day's clock says: waiting is measured monotonically."""
    noisy = scenario(rows=20, faults=Faults(5, {"500": 0.2, "stall": 0.05, "reset_after": 0.1}))
    shifted = scenario(
        rows=20, faults=noisy.faults, clock_jumps=((0.05, DAY_US), (1.0, -2 * DAY_US), (61.0, DAY_US))
    )
    calm, jumping = (play(one, tmp_path / str(n), kills=()) for n, one in enumerate((noisy, shifted)))
    assert calm.played.seconds == jumping.played.seconds
    assert calm.world.posted_at == jumping.world.posted_at


def test_a_seed_replays_exactly(tmp_path):
    """Two plays of one seed: the same requests at the same virtual moments, the same deaths."""
    stages = [play(drawn(4), tmp_path / str(n) / "run", kills=drawn(4).kills) for n in range(2)]
    assert stages[0].world.posted_at == stages[1].world.posted_at
    assert stages[0].played.deaths == stages[1].played.deaths


def test_a_hang_is_found():
    """A run that waits for what never comes is an error, not a test that never ends."""

    async def wait_for_ever():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        run_virtual(VirtualLoop(), wait_for_ever())
