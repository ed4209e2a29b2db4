"""The tutorials show real runs: each is made from its source, and this test makes it again."""

from __future__ import annotations

import pytest
from page_kit import ROOT, is_up_to_date

SOURCES = sorted((ROOT / "docs").glob("tutorial-*.in.md"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name.removesuffix(".in.md"))
def test_a_tutorial_is_what_its_source_and_the_program_say_today(source, tmp_path):
    """From a table to a decision, to the last digit; UPDATE_DOCS=1 writes it anew."""
    assert is_up_to_date(source.with_name(source.name.replace(".in.md", ".md")), source, tmp_path)


def test_there_is_one_for_each_use():
    assert {"tutorial-labels", "tutorial-models", "tutorial-texts"} == {
        source.name.removesuffix(".in.md") for source in SOURCES
    }
