"""docs/the-bill.md shows a real run: it is made from docs/the-bill.in.md, and this test makes it again.

UPDATE_DOCS=1 pytest tests/test_the_bill_page.py writes it anew.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from test_readme import CONSOLE, FILE, ROOT

PAGE = ROOT / "docs" / "the-bill.md"
VOLATILE = (
    (re.compile(r"[\d.]+ s to [\d.]+ s more"), "0.6 s to 0.8 s more"),
    (re.compile(r"^(  time +)[\d.]+ s, [\d,.]+ rows/s", re.MULTILINE), r"\g<1>0.9 s, 240 rows/s"),
    (re.compile(r"at least [\d.]+ s, limited by concurrency"), "at least 0.7 s, limited by concurrency"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "2026-01-01T00:00:00.000000Z"),
    (re.compile(r"python -m crun_batch"), "crun-batch"),
)
"""What differs from run to run: times, and how the tests call the command line."""


def output_of(command: str, folder: Path) -> str:
    """What a command prints, both streams as a terminal shows them."""
    words = shlex.split(command.removeprefix("$ crun-batch "))
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), "COLUMNS": "110"}
    done = subprocess.run(
        [sys.executable, "-m", "crun_batch", *words],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    text = done.stdout.rstrip("\n")
    for pattern, instead in VOLATILE:
        text = pattern.sub(instead, text)
    return text


def made_page(folder: Path) -> str:
    """The page with the job file and the output that its source names, the commands run one after the other."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    source = (ROOT / "docs" / "the-bill.in.md").read_text(encoding="utf-8")
    page = FILE.sub(lambda match: (ROOT / match[1]).read_text(encoding="utf-8").rstrip("\n"), source)

    def with_output(match: re.Match[str]) -> str:
        blocks = [f"{line}\n{output_of(line, folder)}" for line in match[1].splitlines()]
        return "```console\n" + "\n\n".join(blocks) + "\n```"

    return CONSOLE.sub(with_output, page)


def test_the_page_is_what_its_source_and_the_program_say_today(tmp_path: Path) -> None:
    """The figures on the page are those of a real run, to the last digit."""
    page = made_page(tmp_path)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page
