"""The README shows real files and real output: it is made from docs/README.in.md, and this test makes it again."""

from __future__ import annotations

import re

from page_kit import ROOT, is_up_to_date

LINK = re.compile(r"\]\(([\w./-]+)\)")


def test_the_readme_is_what_its_source_and_the_program_say_today(tmp_path):
    assert is_up_to_date(ROOT / "README.md", ROOT / "docs" / "README.in.md", tmp_path)


def test_every_link_of_the_readme_leads_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [] == [target for target in LINK.findall(readme) if not (ROOT / target).exists()]
