"""What people say of rows: each word is kept, it is on the disk when it is said to be, and compare hears it."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from said_gateway import gateway
from store_kit import FailingDisk, Killed, KillingDisk

import crun_batch
from crun_batch.cli import commands as cli
from crun_batch.load.job.job import load_job
from crun_batch.reporting.annotated import gold_labels, judges_against_people
from crun_batch.reporting.annotating import SaidOfAnswer, save_annotation
from crun_batch.store.annotations import (
    Annotation,
    add_annotations,
    all_annotations,
    annotations_that_hold,
    answer_hash,
)

ROWS = 12
NAMES = ("small", "large")


def said(asked):
    """Labels: the large model is right, the small one says `red` to all; the judge passes everything."""
    text = json.dumps(asked["messages"])
    number = next(number for number in range(ROWS) if f"Row {number}." in text)
    right = "red" if number % 2 else "blue"
    if asked["model"] == "judge":
        return 200, json.dumps({"reason": "so", "score": 1})
    return 200, json.dumps({"label": right if asked["model"] == "large" else "red", "confidence": number / ROWS})


SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "confidence": {"type": "number"}},
    "required": ["label", "confidence"],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    pl.DataFrame({"id": range(ROWS), "text": [f"Row {n}." for n in range(ROWS)]}).write_ndjson(
        folder / "rows.jsonl"
    )
    with gateway(said) as base_url:
        tree = {
            "name": "labels",
            "input": {"table": "rows.jsonl", "id": "id"},
            "endpoint": {"base_url": base_url, "auth": "none"},
            "prompt": {"user": "{{ text }}"},
            "output_schema": SCHEMA,
            "sweep": {"model": list(NAMES)},
            "repeats": 2,
            "score": [{"name": "polite", "grader": "judge", "model": "judge"}],
            "output": {"dir": str(folder / "run")},
        }
        (folder / "job.json").write_text(json.dumps(tree))
        return crun_batch.run(load_job(folder / "job.json"), handle_signals=False).directory


def an_annotation(row=1, **changes) -> Annotation:
    return Annotation(**{"row_id": row, "annotator": "ann", "annotated_at": 1_790_000_000_000_000, **changes})


# Kept ---------------------------------------------------------------------------------------------

WORDS = st.one_of(st.none(), st.sampled_from(["red", "blue", "=1+1", "-", "好い", "", "a\nb"]))
SAID = st.builds(
    dict,
    row=st.integers(0, 3),
    variant=st.sampled_from([None, "small", "large"]),
    annotator=st.sampled_from(["ann", "bob"]),
    label=WORDS,
    comment=WORDS,
    verdict=st.sampled_from([None, "pass", "fail"]),
)


def test_the_last_word_of_each_person_holds_and_every_word_is_kept(run: Path) -> None:
    """Against a dictionary: whatever is said in whatever order, by whom, of which answer."""

    @settings(deadline=None, max_examples=25, derandomize=True, database=None)
    @given(st.lists(SAID, max_size=12))
    def law(words: list[dict]) -> None:
        (run / "annotations.parquet").unlink(missing_ok=True)
        model = {}
        for number, one in enumerate(words):
            repeat = None if one["variant"] is None else 0
            add_annotations(run, [an_annotation(annotated_at=number, repeat=repeat, **one)])
            key = (one["row"], one["variant"], repeat, one["annotator"])
            model[key] = (one["label"], one["verdict"], one["comment"])
        assert len(words) == all_annotations(run).num_rows
        held = {line[:4]: line[4:] for line in annotations_that_hold(run).select(
            "id", "variant", "repeat", "annotator", "label", "verdict", "comment").iter_rows()}  # fmt: skip
        assert {key: told for key, told in model.items() if any(part is not None for part in told)} == held

    law()


def test_what_was_saved_survives_a_kill_at_every_step(run: Path) -> None:
    """Before and within each operation of the disk: all of it or the earlier, and the next save goes through."""
    for step in range(20):
        for within in (False, True):
            (run / "annotations.parquet").unlink(missing_ok=True)
            add_annotations(run, [an_annotation(label="red")])
            disk = KillingDisk(step, within=within)
            try:
                add_annotations(run, [an_annotation(label="blue", annotated_at=2)], disk)
                is_saved = True
            except Killed:
                is_saved = False
            labels = all_annotations(run).column("label").to_pylist()
            assert labels == ["red", "blue"] or (labels == ["red"] and not is_saved)
            add_annotations(run, [an_annotation(2, label="green", annotated_at=3)])
            assert "green" == all_annotations(run).column("label").to_pylist()[-1]
            assert [] == [one for one in crun_batch.verify(run) if one.severity != "info"]


def test_a_full_disk_is_said_and_loses_nothing(run: Path) -> None:
    add_annotations(run, [an_annotation(label="red")])
    disk = FailingDisk()
    disk.room_bytes = 10
    with pytest.raises(crun_batch.DiskFailed):
        add_annotations(run, [an_annotation(label="blue")], disk)
    disk = FailingDisk()
    disk.sync_fails = True
    with pytest.raises(crun_batch.DiskFailed):
        add_annotations(run, [an_annotation(label="blue")], disk)
    assert ["red"] == all_annotations(run).column("label").to_pylist()


def _save_many(run: Path, name: str) -> None:
    for number in range(15):
        add_annotations(run, [an_annotation(annotator=name, annotated_at=number, label=str(number))])


def test_two_processes_save_at_once_and_none_loses_a_word(run: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_save_many, args=(run, name)) for name in ("ann", "bob")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert 30 == all_annotations(run).num_rows


def test_annotations_are_the_runs_own(run: Path, tmp_path: Path) -> None:
    """Private, known to verify, no way out of the directory, damage is said; a session that starts leaves them."""
    add_annotations(run, [an_annotation(label="red")])
    file = run / "annotations.parquet"
    assert 0o600 == file.stat().st_mode & 0o777
    assert [] == crun_batch.verify(run)
    job = load_job(run.parent / "job.json")
    assert "finished" == crun_batch.run(job, handle_signals=False).status
    assert 1 == all_annotations(run).num_rows
    file.write_bytes(file.read_bytes()[:-9])
    assert ["annotations.parquet"] == [one.file for one in crun_batch.verify(run)]
    with pytest.raises(crun_batch.RunDirectoryError, match="cannot be read"):
        add_annotations(run, [an_annotation(label="blue")])
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(crun_batch.RunDirectoryError, match="is a link"):
        add_annotations(run, [an_annotation(label="blue")])


# Said ---------------------------------------------------------------------------------------------


def test_an_annotation_names_its_answer_by_hash(run: Path) -> None:
    """And who, and when; a row or an answer that is not there is said."""
    crun_batch.annotate(run, "3", variant="large", verdict="pass")
    [line] = all_annotations(run).to_pylist()
    text = crun_batch.open_run(run).results().filter(
        (pl.col("id") == 3) & (pl.col("variant") == "large") & (pl.col("repeat") == 0)
    ).collect()["output_text"][0]  # fmt: skip
    assert (answer_hash(text), "pass") == (line["answer_hash"], line["verdict"])
    assert line["annotator"] and abs(time.time() - line["annotated_at"].timestamp()) < 60
    for row, variant, words in (
        (99, None, "no finished row"),
        (3, "tiny", "no answer of variant"),
        ("x", None, "whole"),
    ):
        with pytest.raises(crun_batch.InputError, match=words):
            crun_batch.annotate(run, row, variant=variant, label="red")
    with pytest.raises(crun_batch.InputError, match="pass or fail"):
        crun_batch.annotate(run, 3, verdict="maybe")


def test_what_is_left_out_stays_as_it_was_said_but_no_verdict_of_another_answer(run: Path) -> None:
    """By the same person of the same answer; None takes a word back; what others say stays theirs."""
    add_annotations(run, [an_annotation(label="blue", annotator="bob", variant="large", repeat=0)])
    words = ({"label": "red"}, {"verdict": "pass"}, {"comment": "so"}, {"label": None})
    held = [save_annotation(run, SaidOfAnswer(1, "large", annotator="ann", **word)) for word in words]
    told = [(one.label, one.verdict, one.comment) for one in held]
    assert [("red", None, None), ("red", "pass", None), ("red", "pass", "so"), (None, "pass", "so")] == told
    add_annotations(run, [an_annotation(2, variant="large", repeat=0, answer_hash="another", verdict="fail")])
    assert None is save_annotation(run, SaidOfAnswer(2, "large", annotator="ann", label="red")).verdict


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_what_is_exported_is_taken_again_as_it_was(run: Path, tmp_path: Path, form: str) -> None:
    """Into the same run nothing new; into an empty one everything, to the microsecond."""
    words = [
        an_annotation(0, label="=1+1"),
        an_annotation(1, variant="small", repeat=1, verdict="fail", comment='a\nb, "c"'),
    ]
    add_annotations(run, words)
    file = tmp_path / f"people.{form}"
    assert 2 == crun_batch.export_annotations(run, file)
    before = all_annotations(run)
    assert 0 == crun_batch.import_annotations(run, file)
    (run / "annotations.parquet").unlink()
    assert 2 == crun_batch.import_annotations(run, file)
    assert before.to_pylist() == all_annotations(run).to_pylist()


def test_a_file_of_another_tool_is_taken_whole_or_not_at_all(run: Path, tmp_path: Path, capsys) -> None:
    """Each mistake with its row; what the tool adds is left alone; the same file again adds nothing."""
    file = tmp_path / "tool.csv"
    file.write_text("id,label,lead_time\n0,blue,3\n77,red,4\n78,red,1\n")
    assert 2 == cli.main(["annotate", "import", str(run), str(file)])
    told = capsys.readouterr().err
    assert "row 2" in told and "no row '77'" in told and "no row '78'" in told
    assert 0 == all_annotations(run).num_rows
    file.write_text("id,label,lead_time\n0,blue,3\n1,red,4\n2,,\n")
    for new in (2, 0):
        assert 0 == cli.main(["annotate", "import", str(run), str(file), "--annotator", "tool"])
        assert f"{new} new annotations" in capsys.readouterr().out
    file.write_text("id,lable\n0,blue\n")
    assert 2 == cli.main(["annotate", "import", str(run), str(file)])
    assert "one of label, verdict, comment" in capsys.readouterr().err
    assert 0 == cli.main(["annotate", "export", str(run), str(tmp_path / "all.jsonl")])


# Heard --------------------------------------------------------------------------------------------


def test_labels_of_people_are_gold_for_compare(run: Path) -> None:
    """Figures follow what people say; a row's label is that of most people, none where they are tied."""
    with pytest.raises(crun_batch.InputError, match="no row of these runs has a label"):
        crun_batch.compare(run, gold="annotations", score="polite")
    for row in range(ROWS):
        crun_batch.annotate(run, row, label="red" if row % 2 else "blue", annotator="ann")
    found = crun_batch.compare(run, gold="annotations", score="polite").gold
    assert (1.0, 0.5) == (found["large"].accuracy.value, found["small"].accuracy.value)
    crun_batch.annotate(run, 0, label="red", annotator="bob")
    labels = dict(gold_labels([run]).select("id", "annotations").iter_rows())
    assert None is labels["0"]
    crun_batch.annotate(run, 0, label="red", annotator="eve")
    changed = crun_batch.compare(run, gold="annotations", score="polite").gold
    assert (11 / 12, 7 / 12) == (
        pytest.approx(changed["large"].accuracy.value),
        pytest.approx(changed["small"].accuracy.value),
    )


def test_a_judge_is_held_against_people(run: Path) -> None:
    """The judge passes all: it finds all that people pass, none that they fail; old answers do not count."""
    for row in range(6):
        crun_batch.annotate(run, row, variant="large", verdict="pass" if row < 4 else "fail")
    add_annotations(run, [an_annotation(7, variant="large", repeat=0, answer_hash="another", verdict="fail")])
    [found] = judges_against_people(run)
    assert ("polite", 4, 2) == (found.judge, found.passed, found.failed)
    assert (1.0, 0.0) == (found.true_positive_rate.value, found.true_negative_rate.value)
    assert found.true_positive_rate.low < 1.0 and found.true_negative_rate.high > 0.0
