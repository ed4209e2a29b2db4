"""A polars frame in, a polars frame with answers and costs out; no job file needed."""

import polars as pl

import crun_batch

words = pl.DataFrame({"word": ["river", "bridge", "lantern", "harbour"]})
job = crun_batch.Job(
    name="define-words",
    input={"id": "word"},
    model="gpt-5.4-mini",
    prompt={"user": "Define '{{ word }}' in one sentence."},
    params={"max_output_tokens": 60},
    prices={
        "models": {
            "gpt-5.4-mini": {
                "currency": "credits",
                "input_per_mtok": 100,
                "output_per_mtok": 600,
                "minimum_per_request": "0.01",
            }
        }
    },
)
run = crun_batch.run(job, table=words, simulate=True)
print(run.results().select("word", "output_text", "cost_credits").collect())
print("together:", run.cost_credits, "credits")
