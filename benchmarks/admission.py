"""How well admission finds and keeps a gateway's limits: against gateways played in virtual time, in two minutes.

    python benchmarks/admission.py             writes docs/benchmarks.md

What is played, and how, is in tests/measurements/admission.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench_pages import save, write_pages

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from measurements.admission import figures


def main() -> None:
    rows = []
    for row in figures():
        rows.append(row)
        print(f"{'' if row['met'] else 'MISSED':7}{row['what']:80} {row['reached']:>9}  {row['goal']}")
    save("admission", {"rows": rows})
    write_pages()
    print("wrote results/admission.json and docs/benchmarks.md", file=sys.stderr)


if __name__ == "__main__":
    main()
