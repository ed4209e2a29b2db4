"""`make bench`: everything measured anew, one after the other, and written into docs/benchmarks.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

for script in ("throughput.py", "scaling.py"):
    subprocess.run([sys.executable, str(Path(__file__).parent / script), *sys.argv[1:]], check=True)
