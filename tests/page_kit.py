"""Pages with real files and real output: made from `docs/NAME.in.md` by running the commands that they show."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = re.compile(r"^\{([\w./-]+)\}$", re.MULTILINE)
IN_SHORT = re.compile(r"^\{([\w./-]+) in short\}$", re.MULTILINE)
MARKED = re.compile(r"<!-- in short -->\n(.*?)\n<!-- end -->", re.DOTALL)
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
VOLATILE = (
    (re.compile(r"[\d.]+ s( to [\d.]+ s)? more"), "0.6 s to 0.8 s more"),
    (re.compile(r"^(  time +)[\d.]+ s, [\d,.]+ (rows|units)/s", re.MULTILINE), r"\g<1>0.9 s, 240 \g<2>/s"),
    (re.compile(r"at least [\d.]+ s, limited by concurrency"), "at least 0.7 s, limited by concurrency"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "2026-01-01T00:00:00.000000Z"),
    (re.compile(r" 0\.\d\d( +)0\.\d\d( +[\d.,]+ +[\d.,]+)$", re.MULTILINE), r" 0.01\g<1>0.01\g<2>"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "2026-01-01 00:00:00"),
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


def in_short(page: Path) -> str:
    """What a generated page says of itself between its marks."""
    marked = MARKED.search(page.read_text(encoding="utf-8"))
    assert marked is not None, f"{page.name} marks nothing"
    return marked[1]


def is_up_to_date(page: Path, source: Path, folder: Path) -> bool:
    """Whether the page is what its source and the program say today. UPDATE_DOCS=1 writes it anew first."""
    for name in ("jobs", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    text = source.read_text(encoding="utf-8")
    text = IN_SHORT.sub(lambda match: in_short(ROOT / match[1]), text)
    text = FILE.sub(lambda match: (ROOT / match[1]).read_text(encoding="utf-8").rstrip("\n"), text)

    def with_output(match: re.Match[str]) -> str:
        blocks = [f"{line}\n{output_of(line, folder)}" for line in match[1].splitlines()]
        return "```console\n" + "\n\n".join(blocks) + "\n```"

    made = CONSOLE.sub(with_output, text)
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(made, encoding="utf-8")
    assert made == page.read_text(encoding="utf-8"), f"{page.name} is not what the program says: UPDATE_DOCS=1"
    return True
