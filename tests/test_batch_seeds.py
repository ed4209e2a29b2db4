"""The batch lane in virtual time: seeds of faults and kills, and what must hold of each of them.

`python -m tests.simulation.batch_seeds 10000` plays more of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from simulation.batches import FORMS, broken_laws, drawn, play

FEW = (0, 1, 3, 4, 5, 8, 9, 20022)
"""Each form in each lane; the last is killed when all rows are done and the last batch is not said to be over."""


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
