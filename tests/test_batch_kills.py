"""Real kills in the batch lane; all points by `python -m chaos.batches` in the folder `tests`."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.batches import kill_at_points

from tests.chaos.batch_job import FORMS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [110, pytest.param(21, marks=pytest.mark.long)])
def test_a_kill_at_any_point_submits_nothing_twice(form: str, step: int, tmp_path: Path) -> None:
    """Killed at points spread over the whole session, each run ends as if it had not been."""
    figures = kill_at_points(tmp_path, form=form, step=step)
    assert [] == figures.broken
    assert figures.kills >= 1
