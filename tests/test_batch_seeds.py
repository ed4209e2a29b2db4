"""The batch lane in virtual time: seeds of faults and kills, and what must hold of each of them.

`python -m tests.simulation.batch_seeds 10000` plays more of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from simulation.batches import broken_laws, drawn, play


@pytest.mark.parametrize("first", range(0, 12, 4))
def test_no_seed_breaks_a_law_of_the_batch_lane(first: int, tmp_path: Path) -> None:
    """No file becomes two batches, no row two results, no paid line unread, and the bounds hold."""
    for seed in range(first, first + 4):
        scenario = drawn(seed)
        played = play(scenario, tmp_path / str(seed))
        assert [] == [f"seed {seed}: {law}" for law in broken_laws(scenario, played)]
