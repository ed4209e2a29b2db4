"""`make bench`: everything measured anew, one after the other, and written into docs/benchmarks.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS: dict[str, list[str]] = {
    "admission.py": [],
    "startup.py": [],
    "memory.py": [],
    "refusals.py": [],
    "wires.py": [],
    "throughput.py": sys.argv[1:],
    "scaling.py": sys.argv[1:],
}
"""Each with the arguments that it takes."""

for script, arguments in SCRIPTS.items():
    subprocess.run([sys.executable, str(Path(__file__).parent / script), *arguments], check=True)
