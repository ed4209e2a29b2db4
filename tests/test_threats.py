"""docs/threats.md says what holds against whom: each of its claims names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_test_that_the_threat_model_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert [] == [f"{file}::{name}" for file, name in named if name not in names_in(file)]
    assert len(named) > 20


def test_each_line_of_its_tables_names_a_test() -> None:
    """A claim without proof is a hope."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| it may |")]
    assert [] == [line for line in lines if "::test_" not in line]
    ours = {
        "A job file",
        "A table",
        "A gateway",
        "A run directory",
        "The machine",
        "Whoever reaches the local page",
    }
    assert ours == {
        line.removeprefix("## ").removesuffix(" from somebody else")
        for line in PAGE.splitlines()
        if line.startswith("## ")
    }
