"""Attempts and results are plain Parquet: any engine reads them. Here DuckDB, beside polars."""

from pathlib import Path

import duckdb

import crun_batch

JOB = Path(__file__).parent.parent / "jobs" / "answer-questions.yaml"

run = crun_batch.run(JOB, simulate=True)
attempts = f"{run.directory}/attempts/*.parquet"
print(
    duckdb.sql(f"""
        select model, count(*) as requests, sum(input_tokens) as input_tokens, sum(cost_credits) as credits
        from '{attempts}' group by model
    """)
)
print(run.results().select("question", "output_text", "output_tokens").head(3).collect())
