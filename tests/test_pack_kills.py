"""Real kills of sessions that ask several rows in one request; more by `python -m chaos.packs` in `tests`."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.packs import pack_kills


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(4, 3), pytest.param(60, 11, marks=pytest.mark.long), pytest.param(60, 12, marks=pytest.mark.long)],
)
def test_a_kill_at_any_moment_asks_no_answered_row_again_and_the_books_agree(
    kills: int, seed: int, tmp_path: Path
) -> None:
    """To the last digit, request by request; a row that a gateway's filter refuses fails alone."""
    figures = pack_kills(tmp_path, kills=kills, seed=seed)
    assert [] == figures.broken
    assert kills <= figures.kills
    assert figures.packed_charges > 0
