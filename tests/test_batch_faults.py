"""Whatever goes wrong with batches, by a table: none twice, no paid line unread, the bill is the books'.

Every fault that the simulator's batches know is in the table, and what is no fault of a call or a line: a cancel
by somebody else, a list that lags, a batch of somebody else that looks like ours, a limit of enqueued tokens. Each
in every form in which gateways take batches. Played in virtual time, without kills; those are in
`tests/test_batch_seeds.py`.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from simulation.batch_laws import broken_laws
from simulation.batches import BatchPlayed, BatchScenario, play

from crun_batch.simulator.faults import BATCH_FAULTS
from tests.chaos.batch_job import FORMS

PLAIN = BatchScenario(
    seed=0,
    form="",
    rows=9,
    max_requests=4,
    faults={},
    batch_seconds=3600.0,
    list_lag_seconds=0.0,
    enqueued_tokens=None,
    kills=(),
    dies_in_calls=(),
    turns=1,
    segment_bytes=2**26,
)


MOST_PLAYS = 12
"""Of each form, until the fault was met."""


class Case(NamedTuple):
    """What goes wrong, and what may come of it."""

    keys: dict[str, Any]
    outcomes: frozenset[str] = frozenset({"done"})
    """Of attempts."""
    happens: str = ""
    """An outcome that must be seen, in one of the seeds at least: else the fault was never met."""
    is_lost: bool = False
    """Whether what is paid may never be read: the bill has bounds then, and the books are between them."""
    ends: frozenset[int | None] = frozenset({0})
    """With which exit codes sessions may end: one that waits for a batch that somebody cancels ends with 1."""
    forms: tuple[str, ...] = tuple(FORMS)


def of(kind: str, share: float, outcome: str = "", *, is_lost: bool = False) -> Case:
    outcomes = {"done", outcome} if outcome else {"done"}
    return Case({"faults": {kind: share}}, frozenset(outcomes), outcome, is_lost)


CASES = {
    "upload_lost": of("upload_lost", 0.5)._replace(forms=("openai",)),
    "create_lost": of("create_lost", 0.7),
    "create_failed": Case({"faults": {"create_failed": 0.6}}, frozenset({"done", "not_sent"})),
    "failed_lines": of("failed_lines", 0.4, "rejected"),
    "line_errors": of("line_errors", 0.3, "rejected"),
    "expired": of("expired", 0.4, "not_sent"),
    "doubled": of("doubled", 0.5),
    "shuffled": of("shuffled", 1.0),
    "missing": of("missing", 0.3, "unknown", is_lost=True),
    "output_gone": of("output_gone", 0.4, "unknown", is_lost=True),
    "a cancel that takes hold at once": Case(
        {"cancels_at": (12, 24)}, frozenset({"done", "not_sent"}), "not_sent", ends=frozenset({0, 1})
    ),
    "a cancel that comes while lines are done": Case(
        {"cancels_at": (12, 24), "cancel_seconds": 1200.0},
        frozenset({"done", "not_sent"}),
        "not_sent",
        ends=frozenset({0, 1}),
    ),
    "a cancel that comes too late": Case({"cancels_at": (12, 24), "cancel_seconds": 7200.0}),
    "a list that lags": Case({"faults": {"create_lost": 0.7}, "list_lag_seconds": 50.0}),
    "a stranger's batch that looks like ours": Case(
        {"faults": {"create_lost": 0.7}, "strangers_at": (1, 2, 3, 4), "list_lag_seconds": 50.0}
    ),
    "a limit of enqueued tokens": Case(
        {"enqueued_tokens": 150, "batch_seconds": 600.0},
        frozenset({"done", "not_sent"}),
        "not_sent",
        forms=("openai", "openrouter"),
    ),
    "a limit that batches reach together": Case(
        {"enqueued_tokens": 60, "batch_seconds": 600.0, "max_requests": 1, "rows": 5},
        frozenset({"done", "not_sent"}),
        "not_sent",
        forms=("openai", "openrouter"),
    ),
    "a batch that is refused for its tokens": Case(
        {"enqueued_tokens": 150, "batch_seconds": 600.0},
        frozenset({"done", "not_sent"}),
        "not_sent",
        forms=("anthropic",),
    ),
    "a limit that is said by a refusal": Case(
        {"enqueued_tokens": 60, "batch_seconds": 600.0, "max_requests": 1, "rows": 5}, forms=("anthropic",)
    ),
}


def test_the_table_has_every_fault() -> None:
    """A new fault of the simulator is a case here, or this test fails."""
    assert set(BATCH_FAULTS) <= set(CASES)


@pytest.mark.parametrize(
    ("lane", "most_forms"),
    [("batch", 3), ("batch-then-live", 1), pytest.param("batch-then-live", 3, marks=pytest.mark.long)],
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_whatever_goes_wrong_nothing_is_paid_twice_or_left_unread(
    case: Case, lane: str, most_forms: int, tmp_path: Path
) -> None:
    """Nothing becomes two batches, every readable reply is read, the bill is the books', no row is left."""
    seen: Counter[str] = Counter()
    forms = case.forms[-most_forms:]
    for seed, form in enumerate(forms * MOST_PLAYS):
        if seed >= len(forms) and case.happens in ("", *seen):
            break  # what a gateway draws depends on the names of batches, and those on the folder
        scenario = BatchScenario(**{**as_keys(PLAIN), "seed": seed, "form": form, "lane": lane, **case.keys})
        played = play(scenario, tmp_path / f"{form}-{seed}")
        attempts = played.run.attempts().collect()
        assert [] == [f"{form}: {law}" for law in broken_laws(scenario, played)]
        assert {1} == set(played.world.created.values()), form
        found = (case.outcomes >= set(attempts["outcome"]), case.ends >= set(played.exit_codes))
        assert (True, True) == found, form
        low, high = bounds(attempts)
        assert low <= charged(played) <= high if case.is_lost else low == charged(played) == high, form
        seen.update(attempts["outcome"])
    assert case.happens in ("", *seen)


@pytest.mark.parametrize("form", FORMS)
def test_batches_that_wait_for_room_ask_for_it_together(form: str, tmp_path: Path) -> None:
    """What one was refused the others are not asked again: a call a minute, however many wait."""
    keys = {"form": form, "enqueued_tokens": 60, "rows": 16, "max_requests": 1}
    played = play(BatchScenario(**{**as_keys(PLAIN), **keys}), tmp_path / "run")
    assert 16 <= sum(played.world.created.values()) and played.world.now > 3600
    assert played.world.all_calls < 100 + played.world.now / 40


def as_keys(scenario: BatchScenario) -> dict[str, Any]:
    return {name: getattr(scenario, name) for name in scenario.__struct_fields__}


def charged(played: BatchPlayed) -> Decimal:
    """What the gateway's books say, in credits."""
    return Decimal(sum(entry.charge_pico for entry in played.world.charges)) / 10**12


def bounds(attempts: pl.DataFrame) -> tuple[Decimal, Decimal]:
    """What the run says that the bill lies between."""
    known = attempts["cost_credits"].sum() or Decimal(0)
    held = attempts.filter(pl.col("outcome") == "unknown")["held_credits"].sum() or Decimal(0)
    return known, known + held
