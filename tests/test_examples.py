"""Every job file and every example of the project runs as it is, in an empty directory, without a key."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

import crun_batch

ROOT = Path(__file__).parent.parent
JOBS = sorted([*(ROOT / "jobs").glob("*.yaml"), *(ROOT / "examples").glob("*.yaml")])
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
SIMULATOR = {"tokenizer": "words"}


def named(paths):
    return [path.stem for path in paths]


def test_there_are_jobs_for_labelling_evaluation_and_bulk_generation_and_scripts():
    assert {"label-reviews", "answer-questions", "describe-products", "judge-descriptions", "openai-batch"} <= set(
        named(JOBS)
    )
    assert 5 <= len(SCRIPTS)


@pytest.mark.parametrize("path", JOBS, ids=named(JOBS))
def test_a_job_file_runs_and_every_row_has_an_answer_and_a_cost(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = crun_batch.run(path, simulate=True, simulator=SIMULATOR)
    results = pl.read_parquet(run.directory / "results.parquet")
    assert "finished" == run.status
    assert run.summary["units"]["total"] == results.height > 0
    assert {"ok", "truncated"} >= set(results["status"])
    assert 0 == results["output_text"].null_count() + results["cost_credits"].null_count()
    judges = sum(Decimal(sums["cost_credits"]) for sums in run.summary["judges"].values())
    assert run.cost_credits == results["cost_credits"].sum() + judges
    assert 0 == sum(results[name].null_count() for name in results.columns if name.startswith("score_"))


@pytest.mark.parametrize("path", SCRIPTS, ids=named(SCRIPTS))
def test_a_script_runs_and_prints(path, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRUN_")}
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (0, "") == (done.returncode, done.stderr), done.stderr
    assert done.stdout.strip()


def test_labels_of_the_labelling_job_are_among_the_five(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = crun_batch.run(ROOT / "jobs" / "label-reviews.yaml", simulate=True, simulator=SIMULATOR)
    labels = run.results().collect()["output_text"].to_list()
    assert 20 == len(labels)
    assert {"delivery", "quality", "service", "price", "praise"} >= set(labels)
