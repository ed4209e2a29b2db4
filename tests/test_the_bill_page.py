"""docs/the-bill.md shows a real run: it is made from docs/the-bill.in.md, and this test makes it again."""

from __future__ import annotations

from page_kit import ROOT, is_up_to_date


def test_the_page_is_what_its_source_and_the_program_say_today(tmp_path):
    """The figures on the page are those of a real run, to the last digit."""
    assert is_up_to_date(ROOT / "docs" / "the-bill.md", ROOT / "docs" / "the-bill.in.md", tmp_path)
