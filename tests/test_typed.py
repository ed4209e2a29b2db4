"""A user's script under mypy --strict: what the public functions give has a type, what they refuse is an error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = """
from decimal import Decimal
import polars as pl
import crun_batch
run = crun_batch.run("job.yaml", max_cost_usd=Decimal("1.5"), limit=3)
reveal_type(run.cost_usd)
reveal_type(run.results())
reveal_type(run.summary)
reveal_type(crun_batch.map(pl.DataFrame(), prompt="{{ text }}", model="m"))
reveal_type(crun_batch.map(pl.LazyFrame(), prompt="{{ text }}", model="m"))
reveal_type(crun_batch.map(1.5, prompt="{{ text }}", model="m"))
reveal_type(crun_batch.load_job("job.yaml").max_output_tokens)
reveal_type(crun_batch.show(run, 1, raw=True))
crun_batch.show(run, None)
crun_batch.run("job.yaml", limit="3")
"""
SAID = [
    "Decimal | None",
    "LazyFrame",
    "dict[str, Any]",
    "DataFrame",
    "DataFrame",
    "float",
    "int | None",
    "dict[str, Any]",
    'Argument 2 to "show" has incompatible type "None"; expected "int | str"',
    'Argument "limit" to "run" has incompatible type "str"; expected "int | None"',
]


def test_the_public_functions_are_typed(tmp_path: Path) -> None:
    """`map` gives a frame of the kind that it was given, and money may be a Decimal."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--no-pretty", str(tmp_path / "script.py")]
    root = Path(__file__).parent.parent  # where the lint has kept what it found of the package, strict as well
    told = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False).stdout
    lines = [re.sub(r".*?: (?:error|note): (Revealed type is )?", "", line) for line in told.splitlines()]
    names = [
        re.sub(r"\b(?:\w+\.)+|^\"|\"$|  \[arg-type\]", "", line) for line in lines if not line.startswith("Found")
    ]
    assert SAID == names, told
