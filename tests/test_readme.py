"""The README shows real files and real output: it is made from docs/README.in.md, and this test makes it again."""

from __future__ import annotations

import functools
import re
from decimal import Decimal
from typing import Any

from page_kit import ROOT, is_up_to_date

import crun_batch
from crun_batch.cli.starter import write_starter

LINK = re.compile(r"\]\(([\w./-]+)\)")


def test_the_readme_is_what_its_source_and_the_program_say_today(tmp_path):
    assert is_up_to_date(ROOT / "README.md", ROOT / "docs" / "README.in.md", tmp_path)


def test_every_link_of_the_readme_leads_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [] == [target for target in LINK.findall(readme) if not (ROOT / target).exists()]


def test_the_readme_s_python_runs_beside_what_init_has_written(tmp_path, monkeypatch):
    """A first user pastes it into the folder that `init` made: its budget is in the unit of that job's prices."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    write_starter(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(crun_batch, "run", functools.partial(crun_batch.run, simulate=True, environ={}))
    names: dict[str, Any] = {}
    exec(code, names)
    assert (10, Decimal) == (names["answers"].height, type(names["run"].cost_credits))
    assert "run.cost_credits is a Decimal" in code
