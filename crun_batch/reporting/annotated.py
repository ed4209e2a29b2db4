"""What people said of a run's rows, beside what models said: gold labels, and how far a judge agrees with people.

Labels belong to rows: whoever saw whichever answer, the row's label is the one that most people gave, and none
where that is tied. Verdicts belong to answers: they count as long as the answer is still the one that was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.stats.agreement import row_sums
from crun_batch.stats.intervals import Rate, rate_of
from crun_batch.store.annotations import annotations_that_hold, answer_hash
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.store.views import results_frame, run_schema

GOLD = "annotations"
"""As a name of gold labels: those that people gave."""
PASSES_FROM = 0.5
"""A judge passes an answer from this score on."""


class JudgeAgainstPeople(Struct, frozen=True):
    """How often a judge says what people said of the same answers. None: people said it of none."""

    judge: str
    passed: int
    """Answers that people passed, and the judge has judged."""
    failed: int
    true_positive_rate: Rate | None
    """Of those that people passed, how many the judge passes too."""
    true_negative_rate: Rate | None
    """Of those that people failed, how many the judge fails too."""


def gold_labels(paths: Sequence[Path]) -> pl.DataFrame:
    """The label of each annotated row, in the columns `id` (text) and GOLD. Raises InputError where none is."""
    held = [annotations_that_hold(path).select(pl.col("id").cast(pl.String), "label") for path in paths]
    labels = pl.concat(held).filter(pl.col("label").is_not_null())
    if labels.is_empty():
        raise InputError("no row of these runs has a label from a person yet: crun-batch view, or annotate import")
    votes = labels.group_by("id", "label").agg(votes=pl.len())
    most = votes.filter(pl.col("votes") == pl.col("votes").max().over("id"))
    return most.group_by("id").agg(pl.when(pl.len() == 1).then(pl.col("label").first()).alias(GOLD))


def with_gold(results: pl.LazyFrame, row: str, paths: Sequence[Path]) -> pl.LazyFrame:
    """The results with the column GOLD beside them."""
    labels = gold_labels(paths).lazy()
    keyed = results.with_columns(_row_text=pl.col(row).cast(pl.String))
    return keyed.join(labels, left_on="_row_text", right_on="id", how="left").drop("_row_text")


def judges_against_people(path: Path) -> list[JudgeAgainstPeople]:
    """Of each judge of the run that people can be compared with. Raises InputError (no run), RunDamaged."""
    schema = run_schema(RunDirectory(path))
    graders = {one["name"]: one["grader"] for one in read_json(RunDirectory(path).job)["job"].get("score") or ()}
    judges = [name for name in schema.scores if graders.get(name) == "judge"]
    verdicts = _verdicts(path, schema.id_name)
    return [_against(name, verdicts) for name in judges if not verdicts.is_empty()]


def _verdicts(path: Path, id_name: str) -> pl.DataFrame:
    """Answers that most people passed, or failed, as they stand: `row`, `passed` and the scores."""
    held = annotations_that_hold(path).filter(pl.col("verdict").is_not_null(), pl.col("variant").is_not_null())
    passes = (pl.col("verdict") == "pass").mean()
    by_answer = held.group_by("id", "variant", "repeat", "answer_hash").agg(passes=passes)
    decided = by_answer.filter(pl.col("passes") != 0.5).with_columns(passed=pl.col("passes") > 0.5)
    results = results_frame(path).rename({id_name: "id"})
    scores = [name for name in results.collect_schema().names() if name.startswith("score_")]
    found = results.select("id", "variant", "repeat", "output_text", *scores).join(
        decided.lazy(), on=["id", "variant", "repeat"], how="inner"
    )
    seen = found.collect().with_columns(
        now=pl.col("output_text").map_elements(answer_hash, return_dtype=pl.String)
    )
    return seen.filter(pl.col("now") == pl.col("answer_hash"))


def _against(judge: str, verdicts: pl.DataFrame) -> JudgeAgainstPeople:
    judged = verdicts.filter(pl.col(f"score_{judge}").is_not_null()).with_columns(
        agrees=(pl.col(f"score_{judge}") >= PASSES_FROM) == pl.col("passed")
    )
    passed, failed = (judged.filter(pl.col("passed") == one) for one in (True, False))
    return JudgeAgainstPeople(judge, passed.height, failed.height, _rate(passed), _rate(failed))


def _rate(answers: pl.DataFrame) -> Rate | None:
    """How many agree; the answers of one row belong together."""
    by_row = answers.lazy().group_by("id").agg(y=pl.col("agrees").sum(), x=pl.len())
    found = row_sums(by_row.with_columns(all=pl.lit("")), ["all"])
    return rate_of(found[""]) if found else None
