"""The report of a run of a million rows: how long it takes, how much memory, how large the file is.

    python benchmarks/report_million.py                      the run is made in a temporary folder, then goes
    python benchmarks/report_million.py --keep million-run   keeps the run directory there, report.html in it

The rows are made up (tests/measurements/made_up_run.py).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from measurements.made_up_run import asked_run

MEASURED = """
import resource, sys, time
import crun_batch
begun = time.perf_counter()
path = crun_batch.report(sys.argv[1]).path
seconds = time.perf_counter() - begun
print(f"{path.stat().st_size / 1e6:.2f} MB in {seconds:.1f} s ({time.process_time():.1f} s of CPU with imports), "
      f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB of memory at most")
"""


def main() -> None:
    with asked_run(__doc__) as path:
        subprocess.run([sys.executable, "-c", MEASURED, str(path)], check=True)


if __name__ == "__main__":
    main()
