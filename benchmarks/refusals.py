"""Scattered refusals over real HTTP: the whole runner against a server that refuses at random.

    python benchmarks/refusals.py            19 runs of 12,000 rows each, some minutes; writes docs/benchmarks.md
    python benchmarks/refusals.py --quick    3,000 rows each, nothing written

64 in flight, 0.1 s of latency. "Kept" is the time until the last row was sent for the first time without refusals,
as a share of that with them: afterwards there is nothing to do but to wait for rows that were told to wait.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from bench_pages import save, write_pages

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from refusing_server import served

GOALS = {0.01: 0.9, 0.03: 0.85, 0.1: 0.7}
IN_FLIGHT = 64


def measured(rows: int, *arguments: str) -> dict[str, Any]:
    """What the server saw of one whole run."""
    with served(*arguments) as url, tempfile.TemporaryDirectory() as folder:
        table, job = Path(folder) / "t.csv", Path(folder) / "job.json"
        table.write_text("id\n" + "".join(f"{row}\n" for row in range(rows)))
        document = {
            "input": {"table": "t.csv", "id": "id"},
            "endpoint": {"base_url": url + "/v1", "auth": "none"},
            "model": "m",
            "prompt": {"user": "{{ id }}"},
            "limits": {"concurrency": IN_FLIGHT},
            "budget": {"credits": "off"},
        }
        job.write_text(json.dumps(document))
        command = [
            sys.executable,
            "-m",
            "crun_batch",
            "run",
            str(job),
            "--yes",
            "--json",
            "--output-dir",
            f"{folder}/run",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        with urllib.request.urlopen(url + "/stats") as reply:
            stats: dict[str, Any] = json.load(reply)
        return stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    rows = 3_000 if (quick := parser.parse_args().quick) else 12_000
    plain = measured(rows)
    print(f"without refusals: {plain['drained_seconds']:.1f} s")
    figures = []
    for share, goal in GOALS.items():
        for status in (429, 503):
            for retry_after in (1, 5, None):
                told = [] if retry_after is None else ["--retry-after", str(retry_after)]
                seen = measured(rows, "--share", str(share), "--status", str(status), *told)
                kept = plain["drained_seconds"] / seen["drained_seconds"]
                figures.append({"share": share, "status": status, "retry_after": retry_after, "goal": goal} | seen)
                figures[-1]["kept"] = kept
                print(
                    f"{'' if kept >= goal else 'MISSED':7}{share:.0%} {status} Retry-After {retry_after}: "
                    f"{kept:.1%}, whole {seen['seconds']:.1f} s, too early {seen['too_early']}",
                    flush=True,
                )
    if not quick:
        save("refusals", {"rows": rows, "plain": plain, "figures": figures})
        write_pages()


if __name__ == "__main__":
    main()
