"""What a job will cost at least and at most, before anything is sent."""

from pathlib import Path

import crun_batch

JOB = Path(__file__).parent.parent / "jobs" / "describe-products.yaml"

estimate = crun_batch.estimate(JOB, simulate=True)
cost = estimate["cost_credits"]
print(f"{estimate['requests']} requests, {cost['low']} to {cost['high']} credits")
for variant in estimate["variants"]:
    for note in variant["notes"]:
        print("note:", note)
