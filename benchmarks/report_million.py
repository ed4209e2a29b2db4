"""The report of a run of a million rows: how long it takes, how much memory, how large the file is.

    python benchmarks/report_million.py                      the run is made in a temporary folder, then goes
    python benchmarks/report_million.py --keep million-run   keeps the run directory there, report.html in it

The rows are made up (tests/measurements/made_up_run.py).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from measurements.made_up_run import make_run

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.keep or Path(folder) / "run"
        if not path.exists():
            begun = time.perf_counter()
            make_run(path, arguments.rows)
            print(f"{arguments.rows:,} rows made in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        subprocess.run([sys.executable, "-c", MEASURED, str(path)], check=True)


if __name__ == "__main__":
    main()
