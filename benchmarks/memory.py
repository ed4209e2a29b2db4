"""Where memory goes: the peak of a process that only loads a library, and of whole runs, stage by stage.

    python benchmarks/memory.py

Each figure is the most that a process of its own had resident, as the kernel tells it (VmHWM; on macOS the peak of
getrusage). It holds the pages of the libraries' code that were touched, which processes share, as well as data;
whose they are is told for three moments, from /proc/self/smaps.

The tokens of a run are counted by a process of its own, which ends a second after the estimate. What both hold
together is told as the sum of their peaks until it is seen to have ended: it was never more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import startup
from bench_pages import save, write_pages
from machine import CACHE, HERE, description, measure_client, static_server
from prompt_table import write_table

ROWS, IN_FLIGHT = 20_000, 64
LOADED = {
    "python -c pass": "pass",
    "import pydantic": "import pydantic; pydantic.BaseModel",
    "import duckdb": "import duckdb",
    "import polars": "import polars",
    "import pyarrow": "import pyarrow.parquet, pyarrow.compute",
    "import pandas": "import pandas",
}
"""What is told -> what the process runs. pandas is there to compare with: nothing of ours loads it."""
FINISHED = "from crun_batch.cli.commands import main; main(['run', 'job.yaml', '--simulate'])"
TOLD = "from clients.measure import peak_rss_mb, resident_mb; import json"

STAGES = {
    "peak_at_first_request_mb": "up to its first request: all loaded, the job read, the bill estimated",
    "peak_at_last_answer_mb": "up to its last answer: and connections, rows in flight, the journal",
    "peak_rss_mb": "up to its end: and segments sealed, results published",
}
"""Figure of a run -> what it holds by then."""


def main() -> None:
    loaded = [{"what": what, "peak_rss_mb": told_by(code)["peak_rss_mb"]} for what, code in LOADED.items()]
    finished = finished_run()
    table = write_table(CACHE / f"synthetic-{ROWS}.parquet", ROWS)
    with tempfile.TemporaryDirectory(prefix="crun-batch-bench-") as output, static_server() as server:
        measured = measure_client(
            sys.executable,
            HERE / "clients" / "crun_batch_run.py",
            server,
            table,
            rows=ROWS,
            in_flight=IN_FLIGHT,
            output_dir=Path(output) / "run",
        )
    figures: dict[str, Any] = {"machine": description(), "rows": ROWS, "in_flight": IN_FLIGHT, "loaded": loaded}
    stages = [{"what": what, "peak_rss_mb": measured[key]} for key, what in STAGES.items()]
    resident = {"finished": finished["resident_mb"], **measured["resident_mb"]}
    counting = measured["counting_peak_mb"]
    if counting:
        figures["counting"] = {
            "peak_rss_mb": counting,
            "together_at_most_mb": measured["peak_beside_counting_mb"] + counting,
        }
    few = {"rows": startup.ROWS, "peak_rss_mb": finished["peak_rss_mb"]}
    save("memory", {**figures, "stages": stages, "finished": few, "resident_mb": resident})
    write_pages()


def finished_run() -> dict[str, Any]:
    """A job of a few rows that is run again when all of it is done."""
    with tempfile.TemporaryDirectory(prefix="crun-batch-bench-") as folder:
        startup.write_job(Path(folder), "job", startup.ROWS)
        told_by(FINISHED, folder)
        return told_by(FINISHED, folder)


def told_by(code: str, folder: str | None = None) -> dict[str, Any]:
    """The peak in MB of a process that runs this, and what is resident at its end."""
    script = f"{code}\nimport sys; sys.path.insert(0, {str(HERE)!r})\n{TOLD}\n"
    script += "print(json.dumps({'peak_rss_mb': peak_rss_mb(), 'resident_mb': resident_mb()}))"
    environ = os.environ | {"CRUN_API_KEY": "not-a-key"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=folder, env=environ
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


if __name__ == "__main__":
    main()
