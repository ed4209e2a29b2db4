"""What an estimate's words promise: a bound is one only where tokens are counted exactly."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import crun_batch
from crun_batch.console.estimates import estimate_text

PRICE = {"currency": "usd", "input_per_mtok": 1000, "output_per_mtok": 1000}


@pytest.mark.parametrize(("model", "is_bound"), [("gpt-5.4", True), ("a-model-of-unknown-tokens", False)])
def test_only_exact_counts_have_an_at_most(model: str, is_bound: bool, tmp_path: Path) -> None:
    """Elsewhere the reservation holds more than the estimate's high end, which is said to be about so much."""
    job = crun_batch.Job(
        model=model,
        endpoint={"base_url": "http://127.0.0.1:9/v1", "auth": "none"},
        prompt={"user": "{{ text }}"},
        params={"max_output_tokens": 9},
        prices={"models": {model: PRICE}},
        budget={"credits": "off"},
        output={"dir": str(tmp_path / "run")},
    )
    document = crun_batch.estimate(job, table=pl.DataFrame({"text": ["a", "b"]}))
    cost = next(line for line in estimate_text(document).splitlines() if line.strip().startswith("cost"))

    assert is_bound == ("at most" in cost)
    assert is_bound != ("about" in cost)
