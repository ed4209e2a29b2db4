"""crun_batch with everything on: template, budget, admission, journal, sealing, progress, results."""

from __future__ import annotations

import sys
from decimal import Decimal

from measure import KEY, MAX_OUTPUT_TOKENS, MODEL, SYSTEM, Measured, children_peak_mb, peak_rss_mb, resident_mb

import crun_batch

CREDITS_PER_ROW = Decimal(92 * 500 + 87 * 3000) / 10**6
"""92 tokens in and 87 out at 500 and 3,000 credits per million: the bill of a run is known to the last digit."""


def main() -> None:
    measured = Measured()
    arguments = measured.arguments
    peaks: dict[str, float] = {}
    resident: dict[str, dict[str, float]] = {}

    def wire(job: crun_batch.Job) -> crun_batch.Wire:
        peaks["peak_at_first_request_mb"] = peak_rss_mb()
        peaks["counting_peak_mb"] = children_peak_mb()  # what counts tokens ends a second after the estimate
        resident["at_first_request"] = resident_mb()
        measured.starts_sending()
        return crun_batch.open_wire(connections=job.limits.concurrency)

    def watch(progress: crun_batch.Progress) -> None:
        peaks["peak_at_last_answer_mb"] = peak_rss_mb()
        if "peak_beside_counting_mb" not in peaks and not children_peak_mb():  # a look costs 1 ms
            peaks["peak_beside_counting_mb"] = peak_rss_mb()
        print(progress.text(), file=sys.stderr)

    job = crun_batch.Job(
        name="throughput",
        input={"table": str(arguments.table), "id": "question_id", "limit": arguments.rows},
        endpoint={"base_url": arguments.base_url, "api_key_env": "BENCH_KEY"},
        model=MODEL,
        prompt={"system": SYSTEM, "user": "{{ question }}"},
        params={"max_output_tokens": MAX_OUTPUT_TOKENS},
        limits={"concurrency": arguments.in_flight},
        budget={"max_cost_credits": 10**7},
        prices={
            "credits_per_usd": 200,
            "models": {
                MODEL: {
                    "currency": "credits",
                    "input_per_mtok": 500,
                    "cached_input_per_mtok": 50,
                    "output_per_mtok": 3000,
                    "minimum_per_request": "0.01",
                }
            },
        },
        output={"dir": str(arguments.output_dir)},
    )
    run = crun_batch.run(job, wire=wire, watch=watch, environ={"BENCH_KEY": KEY})
    ok = run.summary["rows"]["ok"]
    if run.exit_code != 0 or ok != arguments.rows:
        raise RuntimeError(f"{ok} of {arguments.rows} rows are ok: {run.stop_reason}")
    if run.cost_credits != CREDITS_PER_ROW * arguments.rows:
        raise RuntimeError(f"the bill is {run.cost_credits} credits, not {CREDITS_PER_ROW * arguments.rows}")
    resident["at_end"] = resident_mb()
    peaks.setdefault("peak_beside_counting_mb", peak_rss_mb())
    measured.report(**peaks, resident_mb=resident)


main()
