"""The README shows real files and real output: it is made from docs/README.in.md, and this test makes it again.

UPDATE_DOCS=1 pytest tests/test_readme.py writes it anew.
"""

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
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([\w./-]+)\)")
VOLATILE = (
    (re.compile(r"time +\S.*"), "time     1.3 s, 15 rows/s, 20 requests"),
    (re.compile(r"\d+(\.\d+)? rows/s"), "15 rows/s"),
)


def output_of(command, folder):
    """What a command of the README prints, both streams as a terminal shows them."""
    words = shlex.split(command.removeprefix("$ "))
    assert "crun-batch" == words[0]
    done = subprocess.run(
        [sys.executable, "-m", "crun_batch", *words[1:]],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), "COLUMNS": "110"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    text = done.stdout
    for pattern, instead in VOLATILE:
        text = pattern.sub(instead, text)
    return text.rstrip("\n")


def made_readme(folder):
    """The README with the files and the output that its source names."""
    shutil.copytree(ROOT / "jobs", folder / "jobs")
    source = (ROOT / "docs" / "README.in.md").read_text(encoding="utf-8")
    with_files = FILE.sub(lambda match: (ROOT / match[1]).read_text(encoding="utf-8").rstrip("\n"), source)

    def with_output(match):
        blocks = [f"{line}\n{output_of(line, folder)}" for line in match[1].splitlines()]
        return "```console\n" + "\n\n".join(blocks) + "\n```"

    return CONSOLE.sub(with_output, with_files)


def test_the_readme_is_what_its_source_and_the_program_say_today(tmp_path):
    readme = made_readme(tmp_path)
    if os.environ.get("UPDATE_DOCS"):
        (ROOT / "README.md").write_text(readme, encoding="utf-8")
    assert readme == (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_link_of_the_readme_leads_somewhere():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [] == [target for target in LINK.findall(readme) if not (ROOT / target).exists()]
