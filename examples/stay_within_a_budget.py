"""A budget too small for all rows: the run stops in time, keeps what it has, and says why."""

from pathlib import Path

import crun_batch

JOB = Path(__file__).parent.parent / "jobs" / "label-reviews.yaml"

run = crun_batch.run(
    JOB,
    simulate=True,
    until_budget=True,
    output_dir="runs/small-budget",
    budget={"max_cost_credits": "0.15"},
)
print(run.status, "with exit code", run.exit_code)
print(run.stop_reason)
print("spent", run.cost_credits, "credits for", run.summary["rows"]["ok"], "rows")
