"""Run a job file and look at the answers. Running it again sends nothing: the run is finished."""

from pathlib import Path

import polars as pl

import crun_batch

JOB = Path(__file__).parent.parent / "jobs" / "label-reviews.yaml"

run = crun_batch.run(JOB, simulate=True)
print(run.report())
print(
    run.results().group_by("output_text").agg(pl.len().alias("reviews")).sort("reviews", descending=True).collect()
)
